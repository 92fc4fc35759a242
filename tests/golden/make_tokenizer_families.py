#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Golden figures of the `tokenizers` package for tokenizers of every family's shape, and SmolLM2 on long texts.

    python tests/golden/make_tokenizer_families.py SMOLLM2.gguf BOOKS_DIR    # writes tests/golden/tokenizer/

README.md beside this file describes what is written.
"""

import json
import random
import sys
import unicodedata
from pathlib import Path

import make_tokenizers as lists
from smollm2 import SmolLM2
from tokenizer_families import LLAMA3_RULES, PRE_TOKENIZERS, QWEN2_RULES, families, split

OUT = Path(__file__).resolve().parent / "tokenizer"
BOOKS = ["richard-marsh-the-beetle", "charles-dickens-oliver-twist", "geoffrey-chaucer-the-canterbury-tales"]
BOOK_BYTES = 350_000
EXTRA = [
    "<|l|> a <|l|>b  <|l|>", "<|r|> a<|r|>  \n<|r|>", "x  <|lr|> \u3000 y", "word words a word. word_ \u00e9word word-word",
    "it's 's x's 's.", "cafe\u0301 CAF\u00c9 caf\u00e9s", "ABC abc Abc aBc", "<|im <|im_end|>  <|im_start|>", "a   b    <s>  </s> x",
    "<s>", " <s>", "<s> a", "a</s> b", "<unk><s></s>", "\u2581a\u2581\u2581b \u2581", "#1234567890# 12 345", ">>TITLE<< 1234.5678 x\u00b2\u00b3\u00b9 \u00bc\u00bd\u00be",
    "-- a--b, c; (d) 'e' \"f\" xxthxx the (th)", "the  THE  end", "\u0130STANBUL \u03a3\u03a3 \ufb01\u212b\u2126", "don'\u017f I'M WE'LL 'S 'RE",
    "<think>a</think><\uff5cbegin\u2581of\u2581sentence\uff5c>b", "e.g. e.\u0301x",
]


def hostile_text():
    """Every kind of character beside every other, long runs, and marks in wrong orders."""
    rng = random.Random(3)
    kinds = {}
    for c in range(0x30000):
        kind = unicodedata.category(chr(c))
        # Characters of Unicode 13 and before; later ones the libraries may know or not.
        if kind not in ("Cs", "Cn") and unicodedata.ucd_3_2_0.category(chr(c)) != "Cn":
            kinds.setdefault(kind, []).append(chr(c))
    parts = []
    for kind in sorted(kinds):
        parts += rng.sample(kinds[kind], min(len(kinds[kind]), 60))
    names = sorted(kinds)
    for _ in range(2500):
        parts.append("".join(rng.choice(kinds[rng.choice(names)]) for _ in range(rng.randint(1, 4))))
        parts.append(rng.choice(["", "", " ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "12", "a", "\u0301", "\u00a0", "<|im_end|>"]))
    marks = kinds["Mn"] + kinds["Mc"]
    parts += ["e" + "".join(rng.choices(marks, k=rng.randint(2, 9))) + rng.choice([" ", "x", ""]) for _ in range(150)]
    parts += [c * n for c in " \n\ta1!\u4e2d\u0301\U0001f600_'" for n in (3, 17, 300)]
    return "".join(parts)


def digest(ids):
    """FNV-1a, 64 bits, over the ids (http://www.isthe.com/chongo/tech/comp/fnv/), each as one unit."""
    value = 0xCBF29CE484222325
    for token in ids:
        value = (value ^ token) * 0x100000001B3 % (1 << 64)
    return f"{value:016x}"


def write_lines(path, head, rows):
    body = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    path.write_text(f"{head}[\n{body}\n]" + ("}\n" if head else "\n"))


def write_splits(texts):
    """How whole rules and each alternative of Llama-3's and Qwen2's cut: bytes of every piece."""

    def lengths(pre, text):
        pieces = [text[a:b] for _, (a, b) in pre.pre_tokenize_str(text)]
        assert "".join(pieces) == text
        return [len(p.encode()) for p in pieces]

    rows = []
    for family, rules in (("llama-bpe", LLAMA3_RULES), ("qwen2", QWEN2_RULES)):
        for pattern in [*rules, "|".join(rules)]:
            rows.append({"name": family, "pattern": pattern, "lengths": [lengths(split(pattern), t) for t in texts]})
    write_lines(OUT / "splits.json", "", rows)


def write_named(texts):
    """Bytes of every piece of the named rules' whole pre-tokenizers."""
    rows = []
    for name, pre in PRE_TOKENIZERS.items():
        decode = {c: b for b, c in byte_alphabet().items()}
        rows.append({"name": name, "lengths": [
            [len(bytes(decode[c] for c in piece)) for piece, _ in pre.pre_tokenize_str(t)] if t else [] for t in texts]})
    write_lines(OUT / "named-rules.json", "", rows)


def byte_alphabet():
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in shown}
    for b in range(256):
        table.setdefault(b, chr(256 + len(table) - len(shown)))
    return table


def write_family(name, tokenizer, texts):
    folder = OUT / "families"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.tokenizer.json").write_text(tokenizer.to_str(pretty=False))
    added = set(tokenizer.get_added_tokens_decoder())
    rows = []
    for text in texts:
        tokenizer.encode_special_tokens = False
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        whole = tokenizer.encode(text).ids
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        row = {"ids": ids}
        if plain != ids:
            row["plain"] = plain
        if whole != ids:
            assert whole[1:] == ids
            row["bos"] = whole[0]
        decoded = tokenizer.decode(plain, skip_special_tokens=False)
        if not added & set(plain) and decoded != text:
            row["decoded"] = decoded
        rows.append(row)
    (folder / f"{name}.json").write_text("[\n" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows) + "\n]\n")
    print(f"{name}: {len(texts)} texts, {sum(len(r['ids']) for r in rows)} ids")


def main():
    gguf, books = Path(sys.argv[1]), Path(sys.argv[2])
    texts = lists.PLAIN + lists.DIGITS + lists.UNICODE + lists.CONTROL + lists.SPECIAL + EXTRA + lists.random_texts(60)
    hostile = hostile_text()
    (OUT / "hostile.txt").write_bytes(hostile.encode())
    step = len(hostile) // 16
    texts += [hostile[i : i + 120] for i in range(0, len(hostile) - step, step)]
    write_lines(OUT / "texts.json", "", texts)

    samples = {b: (books / f"{b}.txt").read_bytes()[:BOOK_BYTES].decode(errors="ignore") for b in BOOKS}
    smollm2 = SmolLM2(gguf).tokenizer()
    rows = [{"text": "hostile.txt", "bytes": len(hostile.encode())}] + [
        {"text": f"{b}.txt", "bytes": len(t.encode())} for b, t in samples.items()]
    for row, text in zip(rows, [hostile, *samples.values()]):
        ids = smollm2.encode(text).ids
        row |= {"ids": len(ids), "fnv1a": digest(ids)}
    write_lines(OUT / "smollm2-long.json", "", rows)

    write_splits(texts)
    write_named(texts)
    corpus = [samples[BOOKS[0]][:60_000], *lists.PLAIN, *lists.UNICODE, *EXTRA]
    for name, tokenizer in families(corpus):
        write_family(name, tokenizer, texts)


if __name__ == "__main__":
    main()
