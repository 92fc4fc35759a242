#!/usr/bin/env python3
"""The scripts that make retrieval text and pages of results, and that compare two runs of bench, as a user calls them;
and the one that watches over the GPU's compiler.

usage: scripts_test.py SOURCE_DIR
"""
import html.parser
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent).resolve()


def script(name, *arguments, folder):
    return subprocess.run([sys.executable, SOURCE / name, *arguments], cwd=folder, capture_output=True, text=True)


class Balanced(html.parser.HTMLParser):
    """Fails where an element is not closed, as far as a page of ours closes them."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text += data


class InAFolder(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.folder = pathlib.Path(self.temporary.name)

    def assert_refused(self, result, *words):
        self.assertNotEqual(result.returncode, 0)
        self.assertNotIn("Traceback", result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)


class RetrievalText(InAFolder):
    def make(self, *arguments):
        return script("scripts/retrieval_text.py", "-o", "x.jsonl", *arguments, folder=self.folder)

    def test_same_arguments_same_bytes(self):
        books = str(SOURCE / "demo/text")
        texts = []
        for seed in ("1", "1", "2"):
            result = self.make("--books", books, "--bytes", "200K", "--seed", seed)
            self.assertEqual(result.returncode, 0, result.stderr)
            texts.append((self.folder / "x.jsonl").read_text())
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])
        written = sum(len(json.loads(line)["text"]) for line in texts[0].splitlines())
        self.assertGreaterEqual(written, 200 << 10)

    def test_what_it_cannot_use_leaves_the_output_alone(self):
        (self.folder / "x.jsonl").write_text("old")
        (self.folder / "short").mkdir()
        (self.folder / "short/a.txt").write_text("hello")
        self.assert_refused(self.make("--books", "short"), "short", "longest document")
        self.assert_refused(self.make("--books", "missing"), "missing", "no folder")
        for size in ("-5", "0", "abc", ""):
            self.assert_refused(self.make("--books", "short", "--bytes", size), "--bytes")
        self.assertEqual((self.folder / "x.jsonl").read_text(), "old")
        self.assert_refused(self.make("--books", str(SOURCE / "demo/text"), "-o", "none/x.jsonl"), "cannot write none/x.jsonl")


class ExtensionReport(InAFolder):
    RESULTS = {"backend": "cpu", "dtype": "bf16", "results": {
        "passkey": {"lengths": [{"length": 1024, "samples": 4, "score": 0.5,
                                 "depths": [{"depth": 0.0, "score": 1.0}, {"depth": 1.0, "score": 0.0}]}]},
        "perplexity": {"overall": {"nll": 3.25}, "bins": [{"begin": 1, "end": 256, "nll": 3.5},
                                                          {"begin": 256, "end": 512, "nll": None}]}}}

    def setUp(self):
        super().setUp()
        for name in ("ev", "run"):
            (self.folder / name).mkdir()
        (self.folder / "ev/results.json").write_text(json.dumps(self.RESULTS))
        rows = [{"kind": "eval", "loss": 4.0}, {"kind": "eval", "loss": 3.0}] + [
            {"kind": "train", "step_tokens": 1000, "seconds": 2.0, "loss": 3.5, "tokens_per_second": 500.0,
             "flops_per_second": 1e11}] * 3
        (self.folder / "run/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(self, *arguments):
        return script("scripts/extension_report.py", "-o", "r.html", *arguments, folder=self.folder)

    def test_a_page_says_what_was_measured_and_escapes_names(self):
        result = self.make("--title", "a <b> & c", "--model", "<i>one", "ev", "run", "--model", "two", "ev", "--json", "r.json")
        self.assertEqual(result.returncode, 0, result.stderr)
        page = Balanced()
        page.feed((self.folder / "r.html").read_text())
        self.assertEqual(page.open, [])
        for word in ("a <b> & c", "<i>one", "3,000", "0.1", "4.0000", "3.500", "3.250", "50 %"):
            self.assertIn(word, page.text)
        self.assertFalse({"b", "i"} & set(page.seen))
        self.assertEqual([m["name"] for m in json.loads((self.folder / "r.json").read_text())["models"]], ["<i>one", "two"])

    def test_wrong_folders_are_named(self):
        (self.folder / "torn").mkdir()
        (self.folder / "torn/results.json").write_text('{"backend": "cpu",')
        (self.folder / "torn/metrics.jsonl").write_text('{"kind": "train"}\n')
        self.assert_refused(self.make("--model", "m", "missing"), "missing/results.json")
        self.assert_refused(self.make("--model", "m", "ev", "missing"), "missing/metrics.jsonl")
        self.assert_refused(self.make("--model", "m", "torn"), "torn: not as longgen writes it")
        self.assert_refused(self.make("--model", "m", "ev", "torn"), "ev torn: not as longgen writes it")
        self.assert_refused(self.make("--model", "m"), "EVAL_DIR")
        self.assert_refused(self.make("--model", "m", "ev", "-o", "none/r.html"), "cannot write none/r.html")


class Ratio(InAFolder):
    def make(self, hybrid, twin):
        for name, rows in (("h.jsonl", hybrid), ("t.jsonl", twin)):
            (self.folder / name).write_text(rows if isinstance(rows, str) else "".join(json.dumps(r) + "\n" for r in rows))
        return script("bench/ratio.py", "h.jsonl", "t.jsonl", folder=self.folder)

    def test_wrong_files_are_named(self):
        self.assert_refused(script("bench/ratio.py", "none", "none", folder=self.folder), "error: none")
        self.assert_refused(self.make("{\n", "{\n"), "h.jsonl: not as longgen bench --json prints it")
        self.assert_refused(self.make("", ""), "no row")
        row = {"name": "prefill", "seconds": {"median": 1.0}}
        self.assert_refused(self.make([row], [row]), "--breakdown")


class CheckPtxas(InAFolder):
    """cmake/check_ptxas.sh around a compiler that says something, writes its output and ends with a code."""

    def build(self, said, code=0):
        compiler = self.folder / "compiler"
        compiler.write_text(f"#!/bin/sh\nprintf '%s\\n' '{said}' >&2\necho kernel > \"$4\"\nexit {code}\n")
        compiler.chmod(0o755)
        return subprocess.run(["sh", SOURCE / "cmake/check_ptxas.sh", compiler, "-c", "x.cu", "-o", "x.o"],
                              cwd=self.folder, capture_output=True, text=True)

    def test_a_kernel_whose_products_were_serialised_is_not_built(self):
        for number in range(7508, 7520):
            result = self.build(f"ptxas info : (C{number}) Potential Performance Loss: wgmma.mma_async is serialized")
            self.assertEqual(result.returncode, 1, number)
            self.assertIn(f"(C{number})", result.stderr)
            self.assertIn("serialised", result.stderr)
            self.assertFalse((self.folder / "x.o").exists(), "the next build would take it")

    def test_the_rest_is_passed_on(self):
        for said in ("ptxas warning : Registers are spilled to local memory, 8 bytes spill stores", "(C7507)", "(C7520)"):
            result = self.build(said)
            self.assertEqual(result.returncode, 0)
            self.assertIn(said, result.stderr)
            self.assertTrue((self.folder / "x.o").exists())
        self.assertEqual(self.build("error: expected a ;", 3).returncode, 3)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
