#!/usr/bin/env python3
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
import shutil
import statistics
import subprocess
import sys
import threading

from rows import GPU_ATTENTION, GPU_ROWS, ROWS, SPARSE, gpu_attention_case

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HUGE_PAGES = ("glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
              "glibc.malloc.trim_threshold=99999999999:glibc.malloc.top_pad=268435456")


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
        self.fastest = {}  # by row, over its rounds
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

    # dtype None: as the model's file stores its weights. Without bf16 instructions longgen's own choice is f32, which is
    # not the peers' work.
    def longgen(self, *arguments, repeats=3, dtype="bf16"):
        env = dict(self.env)
        if self.args.isa:
            env["LONGGEN_CPU"] = self.args.isa
        command = [str(self.args.longgen), "bench", *arguments, "--device", self.args.device, "--threads",
                   str(self.args.threads), "--json"]
        if dtype is not None:
            command += ["--dtype", dtype]
        if "gemm" not in arguments and "attention" not in arguments:
            command += ["--repeats", str(repeats)]
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

    def llama(self, weights, lengths, depths):
        """Rows {work, length or depth, tokens_per_second} of model(weights), flash attention on, then off."""
        if "llama" not in self.args.peers:
            return []
        model, rows = self.model(weights), []
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


def number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(row):
    """Measured in turns: the median of the turns'; else of the figures."""
    if row.get("ratios"):
        return statistics.median(row["ratios"])
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


def count(text):
    """An argument's whole number from 1 up."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number from 1 up")
    return int(text)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="cpu", help="cpu, cuda or cuda:N: what longgen and PyTorch run on")
    add("--rows", nargs="+", metavar="NAME", help="see --list; default: all of the device")
    add("--list", action="store_true", help="print the names of the rows")
    add("--threads", type=count, default=len(os.sched_getaffinity(0)))
    add("--peers", nargs="*", choices=["torch", "llama"], default=["torch", "llama"])
    add("--python", default=sys.executable, help="a Python with torch, transformers and perhaps llama_cpp")
    add("--llama-bench", help="use this llama-bench instead of llama-cpp-python")
    add("--llama-repeats", type=count, default=1)
    add("--llama-folder", default=os.environ.get("LONGGEN_COMPARE_LLAMA"), help="where llama_cpp is installed")
    add("--longgen", type=pathlib.Path, default=ROOT / "build/release/bin/longgen")
    add("--compiled", action="store_true", help="FlexAttention's caches are filled already")
    add("--isa", help="hold longgen to this instruction set (run.sh builds llama.cpp for it)")
    add("--model-bf16", help="GGUF file for llama.cpp's bf16 rows (default: random weights)")
    add("--model-q4", help="GGUF file of the Q4_1 rows (default: random weights)")
    add("--rounds", type=count, default=1,
        help="run every row's programs this often in turn and take everybody's best: on shared machines")
    add("--short-warm-up", action="store_true",
        help="time the first training step, of peers behind one of 2K tokens: where a step takes minutes")
    add("--work", type=pathlib.Path, default=ROOT / "build/compare", help="where made models go")
    add("--timeout", type=count, default=1800, help="seconds that one program may take")
    add("--check", action="store_true", help="only say what is wrong with the arguments")
    add("-o", "--output", type=pathlib.Path, help="write the rows there too, as JSON")
    args = parser.parse_args()
    known = ROWS if args.device == "cpu" else GPU_ROWS
    args.rows = args.rows or list(known)
    unknown = [name for name in args.rows if name not in known]
    if unknown:
        parser.error(f"--rows: {', '.join(unknown)}: no such row on {args.device}; see --list")
    programs = {"--longgen": args.longgen, "--python": args.python, "--llama-bench": args.llama_bench}
    for flag, program in programs.items():
        if program and not args.list and not shutil.which(program):
            parser.error(f"{flag}: {program}: no such program" + ("; make builds it" if flag == "--longgen" else ""))
    return args, known


def best_of(name, rounds):
    """One row from the same row of several rounds: for everybody the best figure (bytes: the least)."""
    def pick(values):
        values = [value for value in values if value is not None]
        return (min if rounds[0]["unit"] == "MB" else max)(values) if values else None

    row = dict(rounds[-1], row=name, longgen=pick([r["longgen"] for r in rounds]))
    row["peers"] = {peer: pick([r["peers"].get(peer) for r in rounds])
                    for peer in dict.fromkeys(p for r in rounds for p in r["peers"])}
    if turns := [x for r in rounds for x in r.get("ratios", [])]:
        row.update(ratios=turns, note=f"in {len(turns)} turns of equal time, the median; {min(turns):.2f} to "
                   f"{max(turns):.2f}")
    row["ratio"] = ratio(row)
    return row


def main():
    args, known = parse_arguments()
    if args.list:
        print("\n".join(known))
        return 0
    if args.check:
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
