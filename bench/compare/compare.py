"""Prints one table of peers and longgen side by side, from one run on one machine.

usage: compare.py [--rows NAME...] [options]     (run.sh installs the peers and calls this)
       compare.py --device cuda [--rows NAME...] --python PYTHON    (a Python with a PyTorch for CUDA;
                                                                     flash-attn-4 too, if it is there)

Each row is the same work for everybody; peers run at their better setting: malloc with large pages
for PyTorch, flash attention on or off for llama.cpp. Figures of different runs or machines do not
compare; ratios within one run do. A peer that is not there is "-", one that fails is named on stderr.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HUGE_PAGES = ("glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
              "glibc.malloc.trim_threshold=99999999999:glibc.malloc.top_pad=268435456")
HYBRID = "full=middle:10 sparse=sink-window"
PRODUCTS = ["2048x576x576", "2048x192x576", "2048x1536x576", "2048x576x1536", "2048x49152x576"]
K = 1024


def say(text):
    print(text, file=sys.stderr, flush=True)


def objects(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


class Peer:
    """torch_gpu_peer.py, kept running: starting PyTorch takes longer than most of its rows."""

    def __init__(self, command, env, timeout):
        self.timeout = timeout
        self.process = subprocess.Popen([*command, "requests"], env=env, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def ask(self, arguments):
        """Its rows and what went wrong, if something did."""
        rows, watch = [], threading.Timer(self.timeout, self.process.kill)
        watch.start()
        try:
            self.process.stdin.write(json.dumps(arguments) + "\n")
            self.process.stdin.flush()
            for line in self.process.stdout:
                row = json.loads(line) if line.startswith("{") else {}
                if row.get("done"):
                    return rows, next((r["failed"] for r in rows if "failed" in r), None)
                rows.append(row)
        except OSError as error:
            return rows, str(error)
        finally:
            watch.cancel()
        return rows, f"ended with exit code {self.process.wait()}, or took longer than {self.timeout} s"

    def alive(self):
        return self.process.poll() is None

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Runner:
    """Runs the programs; a failure is told and gives no rows."""

    def __init__(self, args):
        self.args = args
        self.machine = None
        self.failures = []
        self.cache = {}
        self.peer = None
        self.env = dict(os.environ, OMP_NUM_THREADS=str(args.threads))

    def run(self, command, env=None):
        key = json.dumps(command)
        if key in self.cache:
            return self.cache[key]
        say("  " + " ".join(command))
        try:
            done = subprocess.run(command, env=env or self.env, capture_output=True, text=True, check=False,
                                  timeout=self.args.timeout)
            text = done.stdout
            if done.returncode != 0:
                self.fail(command, f"exit code {done.returncode}: {done.stderr.strip()[-400:]}")
        except subprocess.TimeoutExpired as expired:
            text = (expired.stdout or b"").decode()
            self.fail(command, f"longer than {self.args.timeout} s")
        except OSError as error:
            text = ""
            self.fail(command, str(error))
        self.cache[key] = text
        return text

    def fail(self, command, why):
        self.failures.append(f"{' '.join(command)}: {why}")
        say(f"  failed: {why}")

    def longgen(self, *arguments):
        env = dict(self.env)
        if self.args.isa:
            env["LONGGEN_CPU"] = self.args.isa
        command = [str(self.args.longgen), "bench", *arguments, "--device", self.args.device, "--threads",
                   str(self.args.threads), "--json"]
        if "gemm" not in arguments and "attention" not in arguments:
            command += ["--repeats", "3"]
        if self.machine is not None:
            command.append("--no-peak")
        rows = objects(self.run(command, env))
        if self.machine is None and rows:
            self.machine = rows[0]
        return rows[1:]

    def torch(self, *arguments):
        if "torch" not in self.args.peers:
            return []
        if self.args.device != "cpu":
            return self.torch_gpu(list(arguments))
        env = dict(self.env, GLIBC_TUNABLES=HUGE_PAGES)
        return objects(self.run([self.args.python, str(HERE / "torch_peer.py"), *arguments], env))

    def gpu_command(self):
        return [self.args.python, str(HERE / "torch_gpu_peer.py")]

    def torch_gpu(self, arguments):
        key = json.dumps(arguments)
        if key in self.cache:
            return self.cache[key]
        say("  torch_gpu_peer.py " + " ".join(arguments))
        try:
            if self.peer is None or not self.peer.alive():
                self.peer = Peer(self.gpu_command(), self.env, self.args.timeout)
            rows, wrong = self.peer.ask(arguments)
        except OSError as error:
            rows, wrong = [], str(error)
        if wrong:
            self.fail([*self.gpu_command(), *arguments], wrong)
        self.cache[key] = rows
        return rows

    def compile_ahead(self, cases):
        """FlexAttention's kernels of all cases, side by side: its caches on disk hand them on to the peer
        that is timed. What fails here says so there."""
        if "torch" not in self.args.peers or self.args.compiled:
            return
        say(f"compiling {len(cases)} cases of FlexAttention")
        waiting, running = list(cases), []
        while waiting or running:
            while waiting and len(running) < max(1, min(6, self.args.threads // 2)):
                running.append(subprocess.Popen([*self.gpu_command(), *waiting.pop(0), "--compile-only"], env=self.env,
                                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            running.pop(0).wait()

    def close(self):
        if self.peer is not None and self.peer.alive():
            self.peer.close()

    def llama(self, model, lengths, depths):
        """Rows {work, length or depth, tokens_per_second} with flash attention on, then off."""
        if "llama" not in self.args.peers:
            return []
        rows = []
        for flash in ("1", "0"):
            if self.args.llama_bench:
                rows += self.llama_bench(model, lengths, depths, flash)
                continue
            folder = self.args.llama_folder
            env = dict(self.env, PYTHONPATH=folder) if folder else self.env
            rows += objects(self.run(
                [self.args.python, str(HERE / "llama_peer.py"), str(model), "--threads", str(self.args.threads),
                 "--flash-attention", flash, "--length", *map(str, lengths), "--depth", *map(str, depths)], env))
        return rows

    def llama_bench(self, model, lengths, depths, flash):
        base = [self.args.llama_bench, "-m", str(model), "-t", str(self.args.threads), "-fa", flash,
                "-o", "jsonl", "-r", str(self.args.llama_repeats)]
        rows = []
        for length in lengths:
            for row in objects(self.run([*base, "-p", str(length), "-n", "0"])):
                rows.append({"work": "prefill", "length": length, "tokens_per_second": row["avg_ts"]})
        for depth in depths:
            for row in objects(self.run([*base, "-p", "0", "-n", "24", "-d", str(depth)])):
                rows.append({"work": "decode", "depth": depth, "tokens_per_second": row["avg_ts"]})
        return rows

    def model(self, weights):
        """The file of that kind: given, or made with random weights."""
        given = self.args.model_q4 if weights == "q4_1" else self.args.model_bf16
        if given:
            return given
        path = self.args.work / f"smollm2-shape-{weights}.gguf"
        if not path.exists():
            self.args.work.mkdir(parents=True, exist_ok=True)
            self.run([self.args.python, str(HERE / "make_gguf.py"), str(path), "--weights", weights])
        return path


def best(rows, field, **wanted):
    """The greatest `field` of the rows that have all wanted values; None without one."""
    found = [row[field] for row in rows if field in row and all(row.get(k) == v for k, v in wanted.items())]
    return max(found, default=None)


def result(work, unit, ours, peers, goal="", note=""):
    return {"work": work, "unit": unit, "longgen": ours, "peers": peers, "goal": goal, "note": note}


def prefill(run, length, goal, hybrid=""):
    ours = run.longgen("prefill", "--lengths", str(length), *(["--hybrid", hybrid] if hybrid else []))
    hf = run.torch("serve", "--length", str(length), "--steps", "16")
    llama = run.llama(run.model("bf16"), [length], [])
    name = f"prefill {length // K}K" + (", hybrid against all-full peers" if hybrid else "")
    return [result(name, "tok/s", best(ours, "tokens_per_second"),
                   {"transformers": best(hf, "tokens_per_second", work="prefill"),
                    "llama.cpp": best(llama, "tokens_per_second", work="prefill")}, goal)]


def decode(run, depth, goal, hybrid=""):
    ours = run.longgen("decode", "--depths", str(depth), *(["--hybrid", hybrid] if hybrid else []))
    llama = run.llama(run.model("bf16"), [], [depth])
    # What Transformers decodes behind its prefill of the same length.
    hf = run.torch("serve", "--length", str(depth), "--steps", "16") if depth else []
    name = f"decode at {depth // K}K" + (", hybrid against all-full peers" if hybrid else "")
    return [result(name, "tok/s", best(ours, "tokens_per_second"),
                   {"transformers": best(hf, "tokens_per_second", work="decode"),
                    "llama.cpp": best(llama, "tokens_per_second", work="decode")}, goal)]


def quantised(run, lengths, depths, goal):
    model = run.model("q4_1")
    rows = []
    llama = run.llama(model, lengths, depths)
    for length in lengths:
        ours = run.longgen("prefill", str(model), "--lengths", str(length))
        rows.append(result(f"Q4_1 prefill {length // K}K", "tok/s", best(ours, "tokens_per_second"),
                           {"llama.cpp": best(llama, "tokens_per_second", work="prefill", length=length)}, goal))
    for depth in depths:
        ours = run.longgen("decode", str(model), "--depths", str(depth))
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
    ours = run.longgen("attention", "--lengths", "32768", "--pattern", "full", "sink-window", "--repeats", "3")
    rows = []
    for direction in ("forward", "backward"):
        full = [r["tflops"] for r in ours if r["direction"] == direction and r["pattern"] == "full"]
        own = [r["tflops"] for r in ours if r["direction"] == direction and r["pattern"] != "full"]
        rows.append(result(f"attention {direction} sink-window 32K", "TFLOP/s", max(own, default=None),
                           {"our own full": max(full, default=None)}, "0.8"))
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


def train(run, tokens, goal):
    # The memory that the goal allows: within it, backward computes as little again as it can.
    ours = run.longgen("train", "--tokens", str(tokens), "--memory", "3584M" if tokens < 8 * K else "4G")
    peers, notes = {}, [f"longgen {gigabytes(ours)}"]
    for name, extra in (("transformers", []), ("transformers, checkpointing", ["--checkpointing"])):
        if extra and tokens < 8 * K:
            continue
        rows = run.torch("train", "--tokens", str(tokens), *extra)
        peers[name] = best(rows, "tokens_per_second")
        if rows:
            notes.append(f"{name} {gigabytes(rows)}")
    return [result(f"train step {tokens // K}K", "tok/s", best(ours, "tokens_per_second"), peers, goal,
                   "resident: " + ", ".join(notes))]


def train_hybrid(run):
    """The rate against our own all-full twin's, and what FLOPs at equal rates would give."""
    hybrid = run.longgen("train", "--tokens", "16384", "--hybrid", HYBRID)
    full = run.longgen("train", "--tokens", "16384")
    note = ""
    if hybrid and full:
        flops = [rows[0]["tflops"] / rows[0]["tokens_per_second"] for rows in (hybrid, full)]
        note = f"FLOPs alone: {flops[1] / flops[0]:.2f}"
    return [result("train step 16K, hybrid", "tok/s", best(hybrid, "tokens_per_second"),
                   {"our own all-full": best(full, "tokens_per_second")}, "", note)]


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
    rows = []
    for direction in ("forward", "dx", "dw"):
        ours = run.longgen("gemm", "--shape", shape, "--tokens", str(tokens), "--direction", direction)
        sizes = [f"{r['m']}x{r['n']}x{r['k']}" for r in ours]
        torch = run.torch("linear", "--size", *sizes, "--direction", direction) if sizes else []
        for r in ours:
            m, n, k = r["m"], r["n"], r["k"]
            rows.append(result(f"product {direction} {m} x {n} x {k}", "TFLOP/s", r["tflops"],
                               {"pytorch": best(torch, "tflops", m=m, n=n, k=k)}, "",
                               f"{100 * r.get('share_of_peak', 0):.0f} % of 8192^3"))
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
    "train-16k-hybrid": train_hybrid,
    "memory": memory,
}


def number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(row):
    peers = [value for value in row["peers"].values() if value]
    return row["longgen"] / max(peers) if peers and row["longgen"] else None


def table_line(row):
    peers = ", ".join(f"{name} {number(value)}" for name, value in row["peers"].items())
    times = ratio(row)
    return (f"| {row['work']} | {row['unit']} | {peers or '-'} | {number(row['longgen'])} "
            f"| {f'{times:.2f} x' if times else '-'} | {row['goal'] and row['goal'] + ' x'} | {row['note']} |")


def machine_text(machine, args):
    if not machine:
        return "longgen did not run"
    peaks = [f"{p['name']} {p['tflops']:.2f} T" for p in machine.get("peaks", [])]
    read = machine.get("read_gb_per_second")
    return (f"{machine['machine']}; peaks of this run: {', '.join(peaks)}"
            + (f"; memory read {read:.0f} GB/s" if read else "")
            + (f"; held to {args.isa}" if args.isa else ""))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="cpu", help="cpu, cuda or cuda:N: what longgen and PyTorch run on")
    add("--rows", nargs="+", metavar="NAME", help="see --list; default: all of the device")
    add("--list", action="store_true", help="print the names of the rows")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--peers", nargs="*", choices=["torch", "llama"], default=["torch", "llama"])
    add("--python", default=sys.executable, help="a Python with torch, transformers and perhaps llama_cpp")
    add("--llama-bench", help="use this llama-bench instead of llama-cpp-python")
    add("--llama-repeats", type=int, default=1)
    add("--llama-folder", default=os.environ.get("LONGGEN_COMPARE_LLAMA"), help="where llama_cpp is installed")
    add("--longgen", type=pathlib.Path, default=ROOT / "build/release/bin/longgen")
    add("--compiled", action="store_true", help="FlexAttention's caches are filled already")
    add("--isa", help="hold longgen to this instruction set (run.sh builds llama.cpp for it)")
    add("--model-bf16", help="GGUF file for llama.cpp's bf16 rows (default: random weights)")
    add("--model-q4", help="GGUF file of the Q4_1 rows (default: random weights)")
    add("--rounds", type=int, default=1,
        help="run every row's programs this often in turn and take everybody's best: on shared machines")
    add("--work", type=pathlib.Path, default=ROOT / "build/compare", help="where made models go")
    add("--timeout", type=int, default=1800, help="seconds that one program may take")
    add("-o", "--output", type=pathlib.Path, help="write the rows there too, as JSON")
    args = parser.parse_args()
    known = ROWS if args.device == "cpu" else GPU_ROWS
    args.rows = args.rows or list(known)
    unknown = [name for name in args.rows if name not in known]
    if unknown:
        parser.error(f"--rows: {', '.join(unknown)}: no such row on {args.device}; see --list")
    return args, known


def best_of(name, rounds):
    """One row from the same row of several rounds: for everybody the best figure (bytes: the least)."""
    def pick(values):
        values = [value for value in values if value is not None]
        return (min if rounds[0]["unit"] == "MB" else max)(values) if values else None

    row = dict(rounds[-1], row=name, longgen=pick([r["longgen"] for r in rounds]))
    row["peers"] = {peer: pick([r["peers"].get(peer) for r in rounds])
                    for peer in dict.fromkeys(p for r in rounds for p in r["peers"])}
    row["ratio"] = ratio(row)
    return row


def main():
    args, known = parse_arguments()
    if args.list:
        print("\n".join(known))
        return 0
    run = Runner(args)
    run.longgen("gemm", "--size", "64x64x64", "--seconds", "0.01")  # the machine's peaks
    if args.device != "cpu":
        run.compile_ahead([gpu_attention_case(*GPU_ATTENTION[name][:3], [(pattern, "forward")])
                           for name in args.rows if name in GPU_ATTENTION for pattern in SPARSE])
    rows = []
    head = ("| work | unit | peers | longgen | ratio to the best | goal | |\n"
            "|---|---|---|---|---|---|---|")
    for name in args.rows:
        say(f"{name}:")
        rounds = []
        for _ in range(args.rounds):
            if args.rounds > 1:
                run.cache.clear()
            rounds.append(known[name](run))
        for same in zip(*rounds):
            rows.append(best_of(name, same))
            say("  " + table_line(rows[-1]))
        if args.output:
            args.output.write_text(json.dumps({"machine": run.machine, "rows": rows}, indent=1) + "\n")
    run.close()
    best_note = f"; best of {args.rounds} rounds" if args.rounds > 1 else ""
    print(f"{machine_text(run.machine, args)}; {args.threads} threads{best_note}\n\n{head}")
    print("\n".join(map(table_line, rows)))
    for failure in run.failures:
        say("failed: " + failure)
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
