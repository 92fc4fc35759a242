"""The rows of compare.py: what longgen and its peers run for each, through its Runner, and what counts of it.

A row is a function of the Runner that gives result()s; ROWS and GPU_ROWS name them.
"""
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))
from ratio import predicted_by_flops  # noqa: E402

HYBRID = "full=middle:10 sparse=sink-window"
PRODUCTS = ["2048x576x576", "2048x192x576", "2048x1536x576", "2048x576x1536", "2048x49152x576"]
K = 1024


def best(rows, field, **wanted):
    """The greatest `field` of the rows that have all wanted values; None without one."""
    found = [row[field] for row in rows if field in row and all(row.get(k) == v for k, v in wanted.items())]
    return max(found, default=None)


def result(work, unit, ours, peers, goal="", note=""):
    return {"work": work, "unit": unit, "longgen": ours, "peers": peers, "goal": goal, "note": note}


def prefill(run, length, goal, hybrid=""):
    ours = run.longgen("prefill", "--lengths", str(length), *(["--hybrid", hybrid] if hybrid else []))
    hf = run.torch("serve", "--length", str(length), "--steps", "16")
    llama = run.llama("bf16", [length], [])
    name = f"prefill {length // K}K" + (", hybrid against all-full peers" if hybrid else "")
    return [result(name, "tok/s", best(ours, "tokens_per_second"),
                   {"transformers": best(hf, "tokens_per_second", work="prefill"),
                    "llama.cpp": best(llama, "tokens_per_second", work="prefill")}, goal)]


def decode(run, depth, goal, hybrid=""):
    ours = run.longgen("decode", "--depths", str(depth), *(["--hybrid", hybrid] if hybrid else []))
    llama = run.llama("bf16", [], [depth])
    # What Transformers decodes behind its prefill of the same length.
    hf = run.torch("serve", "--length", str(depth), "--steps", "16") if depth else []
    name = f"decode at {depth // K}K" + (", hybrid against all-full peers" if hybrid else "")
    return [result(name, "tok/s", best(ours, "tokens_per_second"),
                   {"transformers": best(hf, "tokens_per_second", work="decode"),
                    "llama.cpp": best(llama, "tokens_per_second", work="decode")}, goal)]


def quantised(run, lengths, depths, goal):
    model = run.model("q4_1")
    rows = []
    llama = run.llama("q4_1", lengths, depths)
    for length in lengths:
        ours = run.longgen("prefill", str(model), "--lengths", str(length), dtype=None)
        rows.append(result(f"Q4_1 prefill {length // K}K", "tok/s", best(ours, "tokens_per_second"),
                           {"llama.cpp": best(llama, "tokens_per_second", work="prefill", length=length)}, goal))
    for depth in depths:
        ours = run.longgen("decode", str(model), "--depths", str(depth), dtype=None)
        rows.append(result(f"Q4_1 decode at {depth // K}K", "tok/s", best(ours, "tokens_per_second"),
                           {"llama.cpp": best(llama, "tokens_per_second", work="decode", depth=depth)}, goal))
    return rows


def attention(run, heads, head_dim, length, goals):
    shape = ["--heads", heads, "--head-dim", str(head_dim)]
    ours = run.longgen("attention", *shape, "--lengths", str(length), "--repeats", "5")
    torch = run.torch("attention", *shape, "--length", str(length))
    return [result(f"attention {direction} {heads} x {head_dim}, {length // K}K", "TFLOP/s",
                   best(ours, "tflops", direction=direction),
                   {"pytorch": best(torch, "tflops", direction=direction)}, goal)
            for direction, goal in zip(("forward", "backward"), goals)]


def window(run):
    """In turns of equal time: what disturbs a shared machine for less than seconds disturbs both. The ratio is the
    median of the rounds', each of two neighbours in time; the figures are medians, too."""
    rows = []
    for direction in ("forward", "backward"):
        ours = run.longgen("attention", "--lengths", "32768", "--pattern", "full", "sink-window", "--direction",
                           direction, "--in-turns", "--repeats", "9", "--seconds", "12")
        row = result(f"attention {direction} sink-window 32K", "TFLOP/s", ours[1]["tflops"] if ours[1:] else None,
                     {"our own full": ours[0]["tflops"] if ours else None}, "0.8")
        if len(ours) == 2:
            full, own = ([r["tflops"] * r["seconds"]["median"] / s for s in r["round_seconds"]] for r in ours)
            row["ratios"] = [b / a for a, b in zip(full, own)]
        rows.append(row)
    return rows


def products(run, direction):
    ours = run.longgen("gemm", "--shape", "smollm2-135m", "--tokens", "2048", "--direction", direction)
    torch = run.torch("linear", "--size", *PRODUCTS, "--direction", direction, "--seconds", "0.5")
    rows = []
    for size in PRODUCTS:
        m, n, k = map(int, size.split("x"))
        rows.append(result(f"product {direction} {m} x {n} x {k}", "TFLOP/s", best(ours, "tflops", m=m, n=n, k=k),
                           {"pytorch": best(torch, "tflops", m=m, n=n, k=k)}, "1.0"))
    return rows


def gigabytes(rows):
    found = [row["resident_bytes"] for row in rows if "resident_bytes" in row]
    return f"{max(found) / 1e9:.1f} GB" if found else "-"


def train(run, tokens, goal, checkpointing=False):
    step, short = ["train", "--tokens", str(tokens)], run.args.short_warm_up
    # The memory that the goal allows: within it, backward computes as little again as it can.
    ours = run.longgen(*step, "--memory", "3584M" if tokens < 8 * K else "4G", *(["--no-warm-up"] if short else []))
    peer, extra = ("transformers, checkpointing", ["--checkpointing"]) if checkpointing else ("transformers", [])
    rows = run.torch(*step, *extra, *(["--warm-up", str(min(tokens, 2 * K))] if short else []))
    note = f"resident: longgen {gigabytes(ours)}" + (f", {peer} {gigabytes(rows)}" if rows else "")
    return [result(f"train step {tokens // K}K", "tok/s", best(ours, "tokens_per_second"),
                   {peer: best(rows, "tokens_per_second")}, goal, note)]


def train_hybrid(run):
    """The rate against our own all-full twin's, and what FLOPs at the twin's rates predict (../ratio.py)."""
    # One step each, the first: it takes half a minute, of which touching its memory is little.
    step = ["train", "--tokens", "16384", "--no-warm-up", "--breakdown"]
    hybrid = run.longgen(*step, "--hybrid", HYBRID, repeats=1)
    full = run.longgen(*step, repeats=1)
    # Of several rounds the fastest of each, which the prediction is made of, too.
    fastest = run.fastest.setdefault("train-16k-hybrid", [None, None])
    for i, rows in enumerate((hybrid, full)):
        found = [*rows[:1], *([fastest[i]] if fastest[i] else [])]
        fastest[i] = max(found, key=lambda row: row["tokens_per_second"], default=None)
    goal = note = ""
    if all(fastest):
        flops = [row["tflops"] / row["tokens_per_second"] for row in fastest]
        predicted = predicted_by_flops(*fastest)
        goal = f"{0.9 * predicted:.2f}"
        note = f"predicted: {predicted:.2f}; FLOPs at equal rates: {flops[1] / flops[0]:.2f}"
    return [result("train step 16K, hybrid", "tok/s", best(hybrid, "tokens_per_second"),
                   {"our own all-full": best(full, "tokens_per_second")}, goal, note)]


def memory(run):
    rows = run.longgen("prefill", "--lengths", "32768", "--hybrid", HYBRID, "--chunk", "1024")
    used = max((row["resident_bytes"] for row in rows), default=None)
    return [result("resident, hybrid prefill 32K in chunks of 1K", "MB", used and used / 1e6, {})]


def named_pattern(row):
    return {"full": "full", "local:32,sink:1": "sink-window", "local:16,sink:1,stride:64": "strided"}.get(
        row.get("pattern"), row.get("pattern"))


def gpu_attention_case(heads, head_dim, length, goals):
    return ["attention", "--heads", heads, "--head-dim", str(head_dim), "--length", str(length), "--pattern",
            *dict.fromkeys(p for p, _ in goals)]


def gpu_attention(run, heads, head_dim, length, goals):
    """Every pattern and direction beside whoever takes it. goals: {(pattern, direction): text}."""
    patterns = list(dict.fromkeys(p for p, _ in goals))
    torch = run.torch(*gpu_attention_case(heads, head_dim, length, goals))
    ours = run.longgen("attention", "--heads", heads, "--head-dim", str(head_dim), "--lengths", str(length),
                       "--pattern", *patterns, "--direction", "forward", "backward", "--repeats", "7")
    rows = []
    for (pattern, direction), goal in goals.items():
        own = [r for r in ours if named_pattern(r) == pattern and r["direction"] == direction]
        peers = {r["peer"]: r["tflops"] for r in torch
                 if r.get("pattern") == pattern and r.get("direction") == direction}
        times = [(r["peer"], r["seconds"]) for r in torch if r.get("pattern") == pattern
                 and r.get("direction") == direction]
        note = "ms: " + ", ".join(f"{who} {1e3 * t:.2f}" for who, t in
                                  [*times, *(("longgen", r["seconds"]["median"]) for r in own)])
        rows.append(result(f"attention {pattern} {direction} {heads} x {head_dim}, {length // K}K", "TFLOP/s",
                           best(own, "tflops"), peers, goal, note))
    return rows


SINK_WINDOW_KEYS = 33 * 64  # what a sink-window layer keeps


def gpu_decode_attention(run, heads, goals):
    """Of whole caches behind 128K, and of what a sparse layer keeps: for peers a cache of that length."""
    shape = ["--heads", heads, "--head-dim", "128"]
    rows = []
    for pattern, goal in goals.items():
        ours = run.longgen("attention", *shape, "--direction", "decode", "--lengths", str(128 * K), "--pattern", pattern)
        kept = 128 * K if pattern == "full" else SINK_WINDOW_KEYS
        torch = [r for r in run.torch("decode", *shape, "--length", str(kept)) if "peer" in r]
        note = "us: " + ", ".join(f"{who} {1e6 * t:.1f}" for who, t in
                                  [*((r["peer"], r["seconds"]) for r in torch),
                                   *(("longgen", r["seconds"]["median"]) for r in ours)])
        rows.append(result(f"decode attention {pattern} {heads} x 128 behind 128K", "GB/s",
                           best(ours, "gb_per_second"), {r["peer"]: r["gb_per_second"] for r in torch}, goal, note))
    return rows


def gpu_products(run, shape, tokens):
    """As often as the peer repeats them: what a GPU reaches falls with the time it has been at its power limit."""
    rows = []
    peak = next((p["tflops"] for p in (run.machine or {}).get("peaks", []) if p["name"] == "product 8192^3"), None)
    for direction in ("forward", "dx", "dw"):
        ours = run.longgen("gemm", "--shape", shape, "--tokens", str(tokens), "--direction", direction,
                           "--repeats", "7")
        sizes = [f"{r['m']}x{r['n']}x{r['k']}" for r in ours]
        torch = run.torch("linear", "--size", *sizes, "--direction", direction) if sizes else []
        for r in ours:
            m, n, k = r["m"], r["n"], r["k"]
            rows.append(result(f"product {direction} {m} x {n} x {k}", "TFLOP/s", r["tflops"],
                               {"pytorch": best(torch, "tflops", m=m, n=n, k=k)}, "",
                               f"{100 * r['tflops'] / peak:.0f} % of 8192^3" if peak else ""))
    return rows


def gpu_serve(run, shape, length, hybrid):
    """Prefill and decode of our hybrid and all-full models beside Transformers, all-full."""
    common = ["--shape", shape]
    hf = run.torch("serve", "--shape", shape, "--length", str(length))
    rows = []
    for work, lengths in (("prefill", "--lengths"), ("decode", "--depths")):
        full = run.longgen(work, *common, lengths, str(length))
        ours = run.longgen(work, *common, lengths, str(length), "--hybrid", hybrid)
        peer = best(hf, "tokens_per_second", work=work)
        name = f"{shape} {work} {'of' if work == 'prefill' else 'behind'} {length // K}K"
        note = f"{1e3 * ours[0]['seconds']['median']:.2f} ms" if ours else ""
        rows.append(result(name + ", all-full", "tok/s", best(full, "tokens_per_second"), {"transformers": peer}))
        rows.append(result(name + ", hybrid against all-full peers", "tok/s", best(ours, "tokens_per_second"),
                           {"transformers": peer, "our own all-full": best(full, "tokens_per_second")}, "", note))
    return rows


def gpu_train(run, shape, tokens, hybrid):
    full = run.longgen("train", "--shape", shape, "--tokens", str(tokens))
    ours = run.longgen("train", "--shape", shape, "--tokens", str(tokens), "--hybrid", hybrid)
    torch = run.torch("train", "--shape", shape, "--tokens", str(tokens))
    peer = {"transformers, checkpointing": best(torch, "tokens_per_second")}
    name = f"{shape} train step {tokens // K}K"
    return [result(name + ", all-full", "tok/s", best(full, "tokens_per_second"), peer),
            result(name + ", hybrid against all-full peers", "tok/s", best(ours, "tokens_per_second"),
                   {**peer, "our own all-full": best(full, "tokens_per_second")})]


ABOVE = "1.0"
HYBRID_7B = "full=middle:12 sparse=sink-window"
SPARSE = ("sink-window", "strided")
BOTH_SPARSE = {(p, d): ABOVE for p in SPARSE for d in ("forward", "backward")}
FULL = {("full", "forward"): ABOVE, ("full", "backward"): ""}
GPU_ATTENTION = {  # heads, head size, length, goals
    "attention-128k": ("32:32", 128, 128 * K, {**FULL, **BOTH_SPARSE}),
    "attention-128k-gqa": ("32:8", 128, 128 * K, BOTH_SPARSE),
    "attention-128k-64": ("9:3", 64, 128 * K, BOTH_SPARSE),
    "attention-32k": ("32:32", 128, 32 * K, {**FULL, **BOTH_SPARSE}),
    "attention-8k": ("32:32", 128, 8 * K, {**FULL, **BOTH_SPARSE}),
}
GPU_ROWS = {
    **{name: lambda run, case=case: gpu_attention(run, *case) for name, case in GPU_ATTENTION.items()},
    "decode-attention": lambda run: gpu_decode_attention(run, "32:32", {"full": ABOVE, "sink-window": ABOVE})
    + gpu_decode_attention(run, "32:8", {"full": ABOVE, "sink-window": ABOVE}),
    "products-7b": lambda run: gpu_products(run, "llama-2-7b", 8 * K),
    "products-135m": lambda run: gpu_products(run, "smollm2-135m", 16 * K),
    "serve-135m": lambda run: gpu_serve(run, "smollm2-135m", 32 * K, HYBRID),
    "serve-7b": lambda run: gpu_serve(run, "llama-2-7b", 32 * K, HYBRID_7B),
    "train-135m": lambda run: gpu_train(run, "smollm2-135m", 16 * K, HYBRID),
}

ROWS = {
    "prefill-2k": lambda run: prefill(run, 2 * K, "1.2"),
    "prefill-8k": lambda run: prefill(run, 8 * K, "1.8"),
    "prefill-32k-hybrid": lambda run: prefill(run, 32 * K, "5", HYBRID),
    "decode-0": lambda run: decode(run, 0, "1.2"),
    "decode-8k": lambda run: decode(run, 8 * K, "1.8"),
    "decode-32k-hybrid": lambda run: decode(run, 32 * K, "3.5", HYBRID),
    "q4-decode-0": lambda run: quantised(run, [], [0], "1.0"),
    "q4-decode-8k": lambda run: quantised(run, [], [8 * K], "2"),
    "q4-prefill-2k": lambda run: quantised(run, [2 * K], [], "2"),
    "attention-8k": lambda run: attention(run, "9:3", 64, 8 * K, ("2", "3")),
    "attention-4k-128": lambda run: attention(run, "32:32", 128, 4 * K, ("2", "3")),
    "attention-window": window,
    "products": lambda run: products(run, "forward"),
    "products-dx": lambda run: products(run, "dx"),
    "products-dw": lambda run: products(run, "dw"),
    "train-2k": lambda run: train(run, 2 * K, "2"),
    "train-8k": lambda run: train(run, 8 * K, "4"),
    "train-8k-checkpointing": lambda run: train(run, 8 * K, "4", checkpointing=True),
    "train-16k-hybrid": train_hybrid,
    "memory": memory,
}
