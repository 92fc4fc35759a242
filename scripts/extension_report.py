#!/usr/bin/env python3
"""One page of what an extension gave, several models beside each other: needles by length and depth, loss by
position, cost of training. (A single model's page is report.html, which `longgen eval -o` writes.)

usage: extension_report.py -o REPORT.html [--json REPORT.json] --title TEXT \\
           --model NAME EVAL_DIR [RUN_DIR] ...    (repeat --model; EVAL_DIR as `longgen eval -o` wrote it,
                                                   RUN_DIR as `longgen extend -o` did)
Needs Python alone. Pictures are drawn as SVG within the page.
"""
import argparse
import html
import json
import math
import pathlib
import statistics
import sys

COLORS = ["#4269d0", "#3ca951", "#ff725c", "#efb118", "#a463f2"]


def read(path):
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SystemExit(f"error: {path}: {error.strerror}; EVAL_DIR is what `longgen eval -o` wrote, RUN_DIR what "
                         "`longgen extend -o` did")


def read_run(folder):
    """What metrics.jsonl says: tokens, seconds, the rate, and the held-out loss before and after."""
    rows = [json.loads(line) for line in read(folder / "metrics.jsonl").splitlines()]
    steps = [row for row in rows if row["kind"] == "train"]
    evals = [row for row in rows if row["kind"] == "eval"]
    run = {"steps": len(steps), "tokens": sum(row["step_tokens"] for row in steps),
           "seconds": sum(row["seconds"] for row in steps), "losses": [row["loss"] for row in steps]}
    if steps:
        run["tokens_per_second"] = statistics.median(row["tokens_per_second"] for row in steps)
        run["tflops"] = statistics.median(row["flops_per_second"] for row in steps) / 1e12
    for name, row in (("before", evals[:1]), ("after", evals[-1:] if len(evals) > 1 else [])):
        if row:
            run[name] = {"loss": row[0]["loss"], "by_position": row[0].get("by_position", [])}
    return run


def read_model(name, folders):
    try:
        results = json.loads(read(pathlib.Path(folders[0]) / "results.json"))
        model = {"name": name, "backend": results["backend"], "dtype": results["dtype"],
                 "results": results["results"]}
        if len(folders) > 1:
            model["run"] = read_run(pathlib.Path(folders[1]))
        return model
    except (ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"error: {' '.join(folders)}: not as longgen writes it ({error!r})")


def length_name(tokens):
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else str(tokens)


def share(cell):
    return "–" if not cell or not cell.get("samples") else f"{100 * cell['score']:.0f} %"


def table(head, rows):
    cells = lambda tag, row: "".join(f"<{tag}>{html.escape(str(x))}</{tag}>" for x in row)
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', head)}</tr>{body}</table>"


def needle_section(models, task):
    shown = [m for m in models if task in m["results"]]
    if not shown:
        return ""
    lengths = sorted({row["length"] for m in shown for row in m["results"][task]["lengths"]})
    rows = []
    for m in shown:
        by_length = {row["length"]: row for row in m["results"][task]["lengths"]}
        rows.append([m["name"]] + [share(by_length.get(n)) for n in lengths])
    parts = [f"<h2>{task}: found, by length</h2>", table(["model"] + [length_name(n) for n in lengths], rows)]
    for m in shown:
        parts.append(f"<h3>{html.escape(m['name'])}: percent found, by depth</h3>" + depth_map(m["results"][task]["lengths"]))
    return "".join(parts)


def depth_map(lengths):
    """Lengths across, depths down; cells say how many percent, green is all."""
    depths = sorted({cell["depth"] for row in lengths for cell in row["depths"]})
    w, h, left, top = 64, 20, 70, 24
    parts = []
    for i, row in enumerate(lengths):
        parts.append(f'<text x="{left + i * w + w / 2}" y="{top - 8}" text-anchor="middle">{length_name(row["length"])}</text>')
        for cell in row["depths"]:
            score = cell.get("score") or 0
            parts.append(f'<rect x="{left + i * w}" y="{top + depths.index(cell["depth"]) * h}" width="{w - 2}" '
                         f'height="{h - 2}" fill="hsl({120 * score:.0f},60%,75%)"/>'
                         f'<text x="{left + i * w + w / 2 - 1}" y="{top + depths.index(cell["depth"]) * h + 13}" '
                         f'text-anchor="middle">{100 * score:.0f}</text>')
    for j, depth in enumerate(depths):
        value = 100 * depth if depth <= 1 else depth
        parts.append(f'<text x="{left - 8}" y="{top + j * h + 14}" text-anchor="end">{value:.0f} %</text>')
    return svg(left + w * len(lengths) + 10, top + h * len(depths) + 10, parts)


def svg(width, height, parts):
    return (f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            f'font-family="sans-serif" font-size="11">{"".join(parts)}</svg>')


def chart(series, title):
    """Lines over log2 of the position; series: (name, [(position, value)])."""
    series = [(name, points) for name, points in series if points]
    if not series:
        return ""
    xs = [math.log2(max(1, x)) for _, points in series for x, _ in points]
    ys = [y for _, points in series for _, y in points]
    x0, x1, y0, y1 = min(xs), max(xs) + 1e-9, min(ys) - 0.02, max(ys) + 0.02
    width, height, left, top = 640, 300, 50, 14
    at = lambda x, y: (left + (math.log2(max(1, x)) - x0) / (x1 - x0) * (width - left - 20),
                       top + (y1 - y) / (y1 - y0) * (height - top - 40))
    parts = []
    for i in range(5):
        y = y0 + (y1 - y0) * i / 4
        parts.append(f'<text x="{left - 6}" y="{at(1, y)[1] + 4:.1f}" text-anchor="end">{y:.2f}</text>'
                     f'<line x1="{left}" x2="{width - 20}" y1="{at(1, y)[1]:.1f}" y2="{at(1, y)[1]:.1f}" stroke="#ddd"/>')
    for x in sorted({x for _, points in series for x, _ in points}):
        parts.append(f'<text x="{at(x, y0)[0]:.1f}" y="{height - 22}" text-anchor="middle">{length_name(int(x))}</text>')
    for i, (name, points) in enumerate(series):
        color = COLORS[i % len(COLORS)]
        path = " ".join(f"{at(x, y)[0]:.1f},{at(x, y)[1]:.1f}" for x, y in points)
        wide = 2 + 2 * (len(series) - 1 - i)  # what lies below another line is seen on both sides of it
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{wide}"/>')
        parts.append(f'<text x="{left + 10 + 190 * (i % 3)}" y="{height - 6}" fill="{color}">{html.escape(name)}</text>')
    return f"<h3>{html.escape(title)}</h3>" + svg(width, height, parts)


def bin_name(entry):
    return f"{length_name(entry['begin'])}–{length_name(entry['end'])}"


def perplexity_section(models):
    shown = [m for m in models if "perplexity" in m["results"]]
    if not shown:
        return ""
    bins = max((m["results"]["perplexity"]["bins"] for m in shown), key=len)
    rows = []
    for m in shown:
        by_begin = {entry["begin"]: entry for entry in m["results"]["perplexity"]["bins"]}
        rows.append([m["name"]] + [f"{by_begin[b['begin']]['nll']:.3f}" if b["begin"] in by_begin and
                                   by_begin[b["begin"]]["nll"] is not None else "–" for b in bins]
                    + [f"{m['results']['perplexity']['overall']['nll']:.3f}"])
    lines = [(m["name"], [(e["end"], e["nll"]) for e in m["results"]["perplexity"]["bins"] if e["nll"] is not None])
             for m in shown]
    return ("<h2>Loss by position on held-out books (nats a token)</h2>"
            + table(["positions"] + [bin_name(b) for b in bins] + ["all"], rows) + chart(lines, "The same; each point stands at the end of its positions"))


def run_section(models):
    shown = [m for m in models if "run" in m]
    if not shown:
        return ""
    rows = []
    for m in shown:
        run = m["run"]
        losses = [f"{run[k]['loss']:.4f}" if k in run else "–" for k in ("before", "after")]
        rows.append([m["name"], f"{run['tokens']:,}", run["steps"], f"{run['seconds']:.0f} s",
                     f"{run.get('tokens_per_second', 0):,.0f}", f"{run.get('tflops', 0):.3g}"] + losses)
    return "<h2>Training</h2>" + table(["model", "tokens", "steps", "time", "tokens/s (median)", "TFLOP/s by unmasked pairs",
                                        "held-out loss before", "after"], rows)


def page_of(title, command, models):
    tasks = sorted({task for m in models for task in m["results"] if "lengths" in m["results"][task]})
    page = "".join([f"<h1>{html.escape(title)}</h1>",
                    f"<p>{html.escape(models[-1]['backend'])}, {models[-1]['dtype']}</p>",
                    f"<pre>{html.escape(command)}</pre>" if command else "",
                    run_section(models), perplexity_section(models)] + [needle_section(models, t) for t in tasks])
    style = ("body{font-family:sans-serif;max-width:60em;margin:2em auto}table{border-collapse:collapse}"
             "td,th{padding:.3em .5em;border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child{text-align:left}"
             "pre{overflow-x:auto;background:#f6f6f6;padding:.6em}svg{max-width:100%;height:auto}")
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{style}</style>{page}</html>\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--title", default="Length extension")
    parser.add_argument("--command", default="", help="what was run, shown as it is")
    parser.add_argument("--model", nargs="+", action="append", required=True, metavar=("NAME", "EVAL_DIR"))
    args = parser.parse_args()
    if any(len(model) not in (2, 3) for model in args.model):
        parser.error("--model NAME EVAL_DIR [RUN_DIR]")
    models = [read_model(name, folders) for name, *folders in args.model]
    content = {"title": args.title, "command": args.command, "models": models}
    try:
        args.output.write_text(page_of(**content), encoding="utf-8")
        if args.json:
            args.json.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise SystemExit(f"error: cannot write {error.filename}: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
