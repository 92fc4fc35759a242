#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How far Transformers' plain bf16 is from the golden fp64 results of the tiny models.

    python tests/golden/measure_bf16.py     # writes tests/golden/models_bf16.json

For each case the relative L2 error of the logits (rows of documents) and of all gradients taken together, weights
rounded to bf16 and everything computed in it. The tests allow longgen's bf16 twice as much.
"""

import json
import zlib

import numpy as np
import torch
from safetensors.torch import load_file

import make_tiny_models as tiny


def measure(name):
    cfg, length = tiny.CASES[name]
    golden = load_file(tiny.HERE / "models" / f"{name}.safetensors")
    documents = tiny.documents_of(cfg, length)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    rng.integers(3, tiny.VOCAB, len(golden["ids"]))  # the ids come first in the stream
    config = tiny.hf_config(cfg)
    config._attn_implementation = "eager"
    model = tiny.MODELS[config.model_type](config).double().eval()
    tiny.randomise(model, rng)
    logits, _, grads = tiny.run(model.bfloat16(), golden["ids"], golden["labels"], documents)
    real = torch.cat([torch.arange(s, s + r) for s, r, _ in documents])
    pairs = [(g, golden[f"grad.{n}"]) for hf, t in grads.items() for n, g in tiny.canonical(cfg, hf, t)]
    got, wanted = (torch.cat([p[i].flatten() for p in pairs]) for i in (0, 1))
    return {
        "logits": round(tiny.relative(logits[real], golden["logits"][real]), 5),
        "gradients": round(tiny.relative(got, wanted), 5),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    table = {name: measure(name) for name in tiny.CASES}
    (tiny.HERE / "models_bf16.json").write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps(table, indent=1))
