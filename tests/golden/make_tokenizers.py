#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Golden token ids: SmolLM2's byte-level BPE by `tokenizers`, Llama-2's SentencePiece by `sentencepiece`.

    python tests/golden/make_tokenizers.py SMOLLM2.gguf LLAMA2.model BOOKS_DIR     # writes tests/golden/tokenizer/

README.md beside this file describes what is written.
"""

import argparse
import base64
import json
import random
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from smollm2 import SmolLM2

OUT = Path(__file__).resolve().parent / "tokenizer"
BOOK, BOOK_BYTES = "richard-marsh-the-beetle", 300_000  # CRLF line ends

PLAIN = [
    "", " ", "  ", "   ", "    ", "\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", "\r", "\t\n", " \n", "\n ", " \n ",
    "\v\f", "a", "A", "Hello", " Hello", "  Hello", "    Hello", "Hello ", "Hello  ", "Hello   world", "Hello world",
    "Hello, world!", " Hello, world! ", "HELLO WORLD", "hELLO wORLD", "CamelCaseIdentifier snake_case_identifier",
    "line one\nline two\n", "line one\r\nline two\r\n", "a\r\n\r\nb", "\tindented\n\t\ttwice\n        eight spaces\n",
    "trailing spaces   \nnext", "tabs\t\t\tinside", "a \n b \n\n c", " \t \t x", "no\u00a0break\u00a0\u00a0space",
    "I'm, you're, he's, we've, they'll, I'd, don't", "I'M YOU'RE HE'S WE'VE THEY'LL I'D DON'T", "'s't're've'm'll'd",
    "it's 'quoted' \u2018curly\u2019 \u201cdouble\u201d I\u2019m", "rock 'n' roll", "'", "''", "'''", "' s", "x'y'z's",
    "!", "!!", "!!!!!!!!", "...", "....", "\u2026", "?!?!", "-", "--", "---", "--------------------", "=====", "_____",
    "a-b-c", "a.b.c", "a,b,c", "(a)[b]{c}<d>", "$100.00", "50%", "#tag @user", "C:\\path\\file",
    "http://ex.am/ple?q=1&r=2", "user@example.com", "x += 1; y <<= 2; z != w && !v || u",
    "for (int i = 0; i < 10; ++i) { f(i); }\n", "def f(x):\n    return x ** 2\n\n\nprint(f(3))\n",
    "{\"key\": [1, 2.5, null, true], \"s\": \"\\u0041\\n\"}", "<html><body class=\"x\">&amp;</body></html>",
    "| a | b |\n|---|---|\n| 1 | 2 |\n", "$\\int_0^1 x^2\\,dx = \\frac{1}{3}$",
]
DIGITS = [
    "0", "1", "12", "123", "1234", "12345", "1234567890", "0" * 50, "3.14159", "1,000,000", "1e-10", "0x1F", "a1b2c3",
    "a  2", "a 2", "2 a", "  2", "x2y 33 z444", "12:34:56", "1999-12-31", "9" * 200, "\n1\n22\n", "1 2 3  4   5",
    "\u0661\u0662\u0663 arabic-indic", "\u096a\u096b devanagari", "\uff11\uff12 fullwidth",
    "x\u00b2 + y\u00b3 \u00bd \u00bc", "\u2160\u2163\u2169 roman", "\u2460\u2461 circled",
    "\U0001d7d8\U0001d7d9 double-struck", "\u3007\u4e00\u4e8c\u4e09",
]
UNICODE = [
    "caf\u00e9", "cafe\u0301", "na\u00efve co\u00f6perate", "\u00c5ngstr\u00f6m A\u030angstro\u0308m \u212b",
    "Z\u0351\u036ba\u0341\u0353l\u0323g\u0317o\u0489", "\u0301", " \u0301\u0302", "e" + "\u0301" * 20, "\u1e9b\u0323",
    "\ufb01 \ufb03 ligatures", "\u01c4 \u01c5 \u01c6", "stra\u00dfe STRASSE \u1e9e", "\u0130I\u0131i",
    "\u03a3\u03c3\u03c2", "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "\u6211\u60f3\u5728apple\u5de5\u4f5c1314151\u5929\uff5e",
    "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c\u3000\u30ab\u30bf\u30ab\u30ca \uff76\uff80\uff76\uff85",
    "\uc548\ub155\ud558\uc138\uc694 \u1112\u1161\u11ab\u1100\u1173\u11af", "\U00020000\U0002a6df rare",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0645\u064e\u0631\u0652\u062d\u064e\u0628\u064b\u0627",
    "\u200f\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd\u200e abc", "\u202eright to left\u202c",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!", "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0915\u094d\u0937\u093f",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "Ti\u1ebfng Vi\u1ec7t c\u1eeda",
    "\u10e5\u10d0\u10e0\u10d7\u10e3\u10da\u10d8", "\u12a0\u121b\u122d\u129b \u13e3\u13b3\u13a9",
    "\U00010330\U00010331 gothic", "\U0001f600", "\U0001f600\U0001f601", " \U0001f600 ",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f44d\U0001f3fd",
    "\U0001f1ec\U0001f1e7\U0001f1eb", "\u2764\ufe0f \u2764", "\u0031\ufe0f\u20e3",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "\u200b\u200c\u200d\u2060", "a\u200bb",
    "soft\u00adhyphen", "\ufeffbom", "\ufffd", "\ufffe\uffff", "\ue000 private \U0010fffd", "\U00050000\U000e0001",
    "\u2028\u2029\u0085x", "\u2000\u2001\u2002\u2003\u2009\u200a\u202f\u205f\u3000y", "\u1680ogham", "\u180emongolian",
    "a\u3000b \u3000c", "\u2200x\u2208\u211d: x\u00b2\u22650", "\u20ac5 \u00a33 \u00a57 \u20bf",
    "\u00bfQu\u00e9? \u00a1S\u00ed!", "\u2014em\u2013en\u2212minus", "\u00ab guillemets \u00bb",
    "\u2581lower one eighth\u2581\u2581", "\u0120\u010a\u0100 byte symbols", "\u00c2\u00a0mojibake \u00e2\u20ac\u2122",
]
CONTROL = [
    "\x00", "a\x00b", "".join(map(chr, range(1, 32))), "\x7f\x80\x9f", "a\x04b\x06c\x13d\x14e\x16f\x1dg",
    "\x1b[31mred\x1b[0m", "\x08\x08", "!\x04!", "-\x1d-\x1d-\x1d-",
]
SPECIAL = [
    "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "a<|im_end|>b", "a <|im_end|> b",
    "<|im_end|><|im_end|>", "<|im_end", "im_end|>", "<|IM_END|>", "<|im_<|im_end|>end|>", "<repo_name>x<file_sep>y",
    "<repo_name", "<reponame><filename><gh_stars>", "1<|endoftext|>2", "<s>", "</s>", "<s> Hello</s>", "<unk>",
    "<pad>", "<0x41>", "<0x0A>\n", "[INST] hi [/INST]",
]
# Bytes that are not UTF-8. Only sentencepiece takes them; `tokenizers` has no answer to compare with.
INVALID = [
    b"\xff", b"a\xffb", b"\xc3", b"caf\xc3", b"\xc3\x28", b"\xe2\x82", b"\xe2\x28\xa1", b"\xf0\x9f\x98", b"\xc0\xaf",
    b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ok \x80\x81 ok",
]


def random_texts(count):
    """Unlikely neighbours: random strings over one alphabet that mixes all of the above."""
    rng = random.Random(1)
    alphabet = list(" \n\t'12aZ.-\u00e9\u4e2d\u0301\U0001f600\r_")
    alphabet += ["  ", "the", " of", "ing", "<|im_end|>", "'s", "\u00a0", "99"]
    return ["".join(rng.choices(alphabet, k=rng.randint(3, 40))) for _ in range(count)]


def write(name, cases, book_name, book_ids):
    lines = ",\n".join(json.dumps(c) for c in cases)
    (OUT / f"{name}.json").write_text(f"[\n{lines}\n]\n")
    metadata = {"source": f"first {BOOK_BYTES} bytes of {book_name}.txt"}  # one key: several come in random order
    save_file({"ids": torch.tensor(book_ids, dtype=torch.int32)}, OUT / f"{name}-book.safetensors", metadata=metadata)
    print(f"{name}: {len(cases)} texts, {sum(len(c['ids']) for c in cases)} ids; book: {len(book_ids)} ids")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("llama2", type=Path)
    parser.add_argument("books", type=Path)
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    texts = PLAIN + DIGITS + UNICODE + CONTROL + SPECIAL + random_texts(40)
    assert len(set(texts)) == len(texts)
    book = (args.books / f"{BOOK}.txt").read_bytes()[:BOOK_BYTES].decode()

    bpe = SmolLM2(args.gguf).tokenizer()
    write("smollm2", [{"text": t, "ids": bpe.encode(t).ids} for t in texts], BOOK, bpe.encode(book).ids)

    spm = sentencepiece.SentencePieceProcessor(model_file=str(args.llama2))
    cases = [{"text": t, "ids": spm.encode(t)} for t in texts]
    cases += [{"base64": base64.b64encode(b).decode(), "ids": spm.encode(b)} for b in INVALID]
    write("llama2", cases, BOOK, spm.encode(book))


if __name__ == "__main__":
    main()
