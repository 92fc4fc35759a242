#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Golden files of SmolLM2-135M-Instruct and a hybrid of it, by Transformers in fp32 on the CPU.

    python tests/golden/make_smollm2.py MODEL.gguf BOOKS_DIR     # writes tests/golden/smollm2/

BOOKS_DIR holds the held-out books. README.md beside this file describes what is written.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from smollm2 import HYBRID, SmolLM2, greedy, next_token_logprobs

OUT = Path(__file__).resolve().parent / "smollm2"
TOKENS = 2048
BOOKS = ["charles-dickens-oliver-twist", "mark-twain-the-innocents-abroad", "richard-marsh-the-beetle"]
HYBRID_BOOK = BOOKS[2]
HYBRID_PROMPTS = [(BOOKS[0], 40_000, 1000), (BOOKS[1], 90_000, 1203), (BOOKS[2], 60_000, 1536)]  # from byte, tokens
# Chosen so that the two best logits never come within 0.01 of each other: fp32 anywhere must agree.
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea, there lived",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "In 1969, Neil Armstrong became the first",
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nName three primary colours.<|im_end|>\n<|im_start|>assistant\n",
    "中国的首都是",
    "La Révolution française a commencé en",
    "1, 2, 3, 4, 5, 6, 7,",
    "# Shopping list\n\n- apples\n- bread\n-",
    "The three laws of thermodynamics are as follows.\n\n1.",
]


def book_ids(tokenizer, books, name, start=0, count=TOKENS):
    """The first `count` tokens from byte `start` on; BPE never looks further ahead than one word."""
    raw = (books / f"{name}.txt").read_bytes()[start : start + 8 * count].decode(errors="ignore")
    return tokenizer.encode(raw).ids[:count]


def save_logprobs(name, ids, logprobs):
    save_file({"ids": torch.tensor(ids, dtype=torch.int32), "logprobs": logprobs}, OUT / f"{name}.safetensors")
    nll = -logprobs.double().mean().item()
    print(f"{name}: NLL {nll:.6f}, perplexity {math.exp(nll):.5f}", flush=True)
    return {"tokens": len(ids), "nll": nll, "perplexity": math.exp(nll)}


def continuation(model, tokenizer, ids, count, **described):
    output, margins = greedy(model, ids, count)
    text = tokenizer.decode(output, skip_special_tokens=False)
    print(f"{described}: least margin {min(margins):.4f}: {text!r}", flush=True)
    return described | {"prompt_ids": ids, "ids": output, "margins": [float(f"{m:.6g}") for m in margins]}


def write_json(name, value):
    lines = ",\n".join(json.dumps(v) for v in value)
    (OUT / name).write_text(f"[\n{lines}\n]\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("books", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    OUT.mkdir(exist_ok=True)
    source = SmolLM2(args.gguf)
    tokenizer = source.tokenizer()

    model, perplexity = source.model(), {}
    for name in BOOKS:
        ids = book_ids(tokenizer, args.books, name)
        perplexity[name] = save_logprobs(name, ids, next_token_logprobs(model, ids))
    write_json(
        "greedy.json",
        [continuation(model, tokenizer, tokenizer.encode(p).ids, 64, prompt=p) for p in PROMPTS],
    )

    model = source.model(HYBRID)
    ids = book_ids(tokenizer, args.books, HYBRID_BOOK)
    name = f"hybrid-{HYBRID_BOOK}"
    perplexity[name] = save_logprobs(name, ids, next_token_logprobs(model, ids))
    prompts = [(n, start, book_ids(tokenizer, args.books, n, start, count)) for n, start, count in HYBRID_PROMPTS]
    write_json(
        "hybrid-greedy.json",
        [continuation(model, tokenizer, ids, 32, book=n, first_byte=start) for n, start, ids in prompts],
    )
    (OUT / "perplexity.json").write_text(json.dumps(perplexity, indent=1) + "\n")
    (OUT / "hybrid.json").write_text(json.dumps(HYBRID, indent=1) + "\n")


if __name__ == "__main__":
    main()
