#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares a model directory written by longgen, plain or hybrid, with Transformers in fp32.

    longgen score DIR --text FILE --dtype f32 --json > score.json
    python tests/golden/check_hf_export.py DIR score.json [--text FILE]

score.json is `{"tokens": [...], "logprobs": [...], ...}`: logprobs holds one entry for each token but the first, or one
for each token with null for the first. With --text the tokens are also compared with those of the directory's own
tokenizer. A hybrid brings modeling_longgen.py, so the directory is loaded with trust_remote_code: only use directories
you wrote. Exit 0 if the largest difference of a log-probability is within the tolerance, else 1.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.inference_mode()
def next_token_logprobs(model, ids, chunk):
    """Log-probability of ids[t + 1] after ids[: t + 1], `chunk` tokens a forward, earlier keys from the cache."""
    pieces, past = [], None
    for start in range(0, len(ids) - 1, chunk):
        step = model(torch.tensor([ids[start : start + chunk]]), past_key_values=past, use_cache=True)
        past = step.past_key_values
        targets = torch.tensor(ids[start + 1 : start + 1 + chunk])
        logprobs = step.logits[0, : len(targets)].double().log_softmax(-1)
        pieces.append(logprobs.gather(-1, targets[:, None])[:, 0])
    return torch.cat(pieces)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("score", type=Path)
    parser.add_argument("--text", type=Path, help="the text that was scored: compare the tokens too")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--chunk", type=int, default=2048, help="tokens a forward")
    parser.add_argument("--attention", default="eager", choices=["eager", "sdpa"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    score = json.loads(args.score.read_text())
    ids, logprobs = score["tokens"], score["logprobs"]
    if len(logprobs) == len(ids) and logprobs[0] is None:
        logprobs = logprobs[1:]
    if len(ids) < 2 or len(logprobs) != len(ids) - 1:
        sys.exit(f"{args.score}: {len(ids)} tokens and {len(logprobs)} log-probabilities do not fit together")

    if args.text:
        tokenizer = AutoTokenizer.from_pretrained(args.directory)
        expected = tokenizer(args.text.read_bytes().decode())["input_ids"][: len(ids)]
        if expected != ids:
            at = next((i for i, (a, b) in enumerate(zip(expected, ids)) if a != b), len(expected))
            sys.exit(f"tokens differ from the directory's tokenizer at {at}: {ids[at:at + 5]}, {expected[at:at + 5]}")
        print(f"tokens: {len(ids)}, equal")

    model = AutoModelForCausalLM.from_pretrained(
        args.directory, trust_remote_code=True, dtype=torch.float32, attn_implementation=args.attention
    ).eval()
    theirs = next_token_logprobs(model, ids, args.chunk)
    ours = torch.tensor(logprobs, dtype=torch.float64)
    difference = (ours - theirs).abs()
    worst = int(difference.argmax())
    print(f"{type(model).__name__}, {len(ids)} tokens")
    for name, values in (("longgen", ours), ("transformers", theirs)):
        print(f"{name:>12}: NLL {-values.mean():.6f}, perplexity {math.exp(-values.mean()):.5f}")
    print(
        f"  difference: mean {difference.mean():.2e}, largest {difference[worst]:.2e} at token {worst + 1} "
        f"({ours[worst]:.6f}, {theirs[worst]:.6f}); tolerance {args.tolerance:g}"
    )
    ok = bool(difference[worst] <= args.tolerance)  # false for NaN
    print("ok" if ok else "FAILED")
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
