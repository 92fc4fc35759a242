#!/usr/bin/env python3
"""How much faster a hybrid is than its all-full twin, beside what its work says it should be.

HYBRID.jsonl and TWIN.jsonl are what one `longgen bench ... --json` printed for each.

train, prefill (--breakdown): work is matrix products, attention forward and attention backward. The twin's run gives
the rate of each kind in FLOP/s by unmasked pairs. What each model executes of a kind, recomputation included, over
that rate is its predicted time; the ratio of both is the prediction. So sparse layers are predicted to run at the rate
of full ones, and everything else to cost nothing.

decode (--depths 0,128K): the twin's step behind an empty cache is the time of the weights; what its deep step takes
longer, over the cache's bytes, is the rate of the cache. The hybrid's prediction is the same time of the weights and
its own cache at that rate.

Where a model's outputs were offloaded, its norms wait for copies: what they take beyond their bytes at the other
model's rate is shown as a wait, and the ratio with and without it.
"""
import argparse
import collections
import json


def read_rows(path):
    try:
        with open(path, encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.startswith("{")]
    except OSError as error:
        raise SystemExit(f"error: {path}: {error.strerror}")
    except ValueError as error:
        raise SystemExit(f"error: {path}: not as longgen bench --json prints it ({error})")
    return [row for row in rows if "seconds" in row]


def kind_of(operation):
    if operation.startswith("linear"):
        return "products"
    return operation if operation in ("attention_forward", "attention_backward") else None


def of_kinds(row):
    """FLOPs and seconds by kind."""
    kinds = collections.defaultdict(lambda: [0.0, 0.0])
    for entry in row["breakdown"]:
        if kind := kind_of(entry["operation"]):
            kinds[kind][0] += entry["flops"]
            kinds[kind][1] += entry["seconds"]
    return kinds


def wait_for_copies(row, other):
    """Seconds; by shape, as each has a rate of its own."""
    if not row.get("offloaded_bytes"):
        return 0.0
    rates = {entry["shape"]: entry["bytes"] / entry["seconds"] for entry in other["breakdown"]
             if entry["operation"] == "norm_forward"}
    norms = [entry for entry in row["breakdown"]
             if entry["operation"] == "norm_forward" and entry["shape"] in rates]
    repeats = row["seconds"]["repeats"]
    return max(0.0, sum(e["seconds"] - e["bytes"] / rates[e["shape"]] for e in norms)) / repeats


def print_ratio(what, measured, predicted):
    print(f"{what:<28} {measured:7.3f}   predicted {predicted:.3f}   {100 * measured / predicted:.1f} % of it")


def predicted_by_flops(hybrid, twin):
    own, other = of_kinds(hybrid), of_kinds(twin)
    times = [0.0, 0.0]
    for kind, (flops, seconds) in other.items():
        for i, kinds in enumerate((own, other)):
            repeats = (hybrid, twin)[i]["seconds"]["repeats"]
            times[i] += kinds[kind][0] * seconds / flops / repeats
    return times[1] / times[0]


def compare_flops(hybrid, twin):
    own, other = of_kinds(hybrid), of_kinds(twin)
    print(f"{'':<22} {'hybrid':>24} {'twin':>24}")
    for kind in sorted(other):
        shown = [f"{s:.3f} s, {f / s / 1e12:.3g} TFLOP/s" for f, s in (own[kind], other[kind])]
        print(f"{kind:<22} {shown[0]:>24} {shown[1]:>24}")
    predicted = predicted_by_flops(hybrid, twin)
    seconds = [row["seconds"]["median"] for row in (hybrid, twin)]
    waits = [wait_for_copies(hybrid, twin), wait_for_copies(twin, hybrid)]
    print(f"{'all':<22} {seconds[0]:>22.3f} s {seconds[1]:>22.3f} s\n")
    print_ratio("hybrid over twin", seconds[1] / seconds[0], predicted)
    if any(waits):
        print(f"waits for offloaded outputs: {waits[0]:.3f} s, {waits[1]:.3f} s")
        print_ratio("without them", (seconds[1] - waits[1]) / (seconds[0] - waits[0]), predicted)


def compare_bytes(hybrid, twin):
    empty, deep = twin[0], twin[-1]
    own_deep = hybrid[-1]
    taken = lambda row: row["seconds"]["median"]
    read = lambda row: row["gb_per_second"] * 1e9 * taken(row)
    weights_seconds, weights_bytes = taken(empty), read(empty)
    rate = (read(deep) - weights_bytes) / (taken(deep) - weights_seconds)
    predicted_own = weights_seconds + (read(own_deep) - weights_bytes) / rate
    print(f"weights {weights_bytes / 1e9:.2f} GB at {weights_bytes / weights_seconds / 1e9:.0f} GB/s; "
          f"the twin's cache at {rate / 1e9:.0f} GB/s")
    print(f"hybrid {1e3 * taken(own_deep):.3f} ms, {read(own_deep) / 1e9:.2f} GB; "
          f"twin {1e3 * taken(deep):.3f} ms, {read(deep) / 1e9:.2f} GB")
    print_ratio("hybrid over twin", taken(deep) / taken(own_deep), taken(deep) / predicted_own)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hybrid", metavar="HYBRID.jsonl")
    parser.add_argument("twin", metavar="TWIN.jsonl")
    args = parser.parse_args()
    hybrid, twin = read_rows(args.hybrid), read_rows(args.twin)
    if not hybrid or not twin:
        parser.error("a file has no row; run longgen bench with --json")
    if "depth" in hybrid[-1]:
        if len(twin) < 2 or twin[0]["depth"] > 0 or hybrid[-1]["depth"] != twin[-1]["depth"]:
            parser.error("decode: both with --depths 0,N")
        compare_bytes(hybrid, twin)
        return
    if not all(rows[-1].get("breakdown") for rows in (hybrid, twin)):
        parser.error("run longgen bench with --breakdown, too")
    compare_flops(hybrid[-1], twin[-1])


if __name__ == "__main__":
    main()
