#!/usr/bin/env python3
"""Golden values of GGUF dequantisation, by the gguf package (see tests/golden/README.md for versions).

    python tests/formats/data/make_gguf_goldens.py [SmolLM2-135M-Instruct.Q4_1.gguf]

gguf_blocks.json: blocks of every type that is read and their values, both as hexadecimal digits of the file's bytes
(values: little-endian f32): three random blocks, and four whose scales are the largest and smallest f16 numbers, zero
and -0. Q8_K has no reader in the package; its formula is d q. With the model's file also
smollm2_values.json: of some tensors, Q and K rows in Hugging Face's order, the sum, the sum of magnitudes, the sum
weighted by cos(index) (which notices rows in another order) and single elements.
"""
import json
import pathlib
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

HERE = pathlib.Path(__file__).parent
BLOCK_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "Q8_0": 34, "Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "IQ4_NL": 18,
               "Q2_K": 84, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210, "Q8_K": 292}
# Where the f16 numbers lie.
SCALES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "IQ4_NL": [0], "Q2_K": [80, 82],
          "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
EXTREMES = [65504, -65504, 2.0 ** -24, -0.0]  # of f16: the largest, the smallest above zero, and zero from below


def random_blocks(name, blocks, rng):
    data = rng.integers(0, 256, (blocks, BLOCK_BYTES[name]), dtype=np.uint8)
    if name in ("F32", "F16", "BF16"):
        values = rng.normal(size=blocks).astype(np.float32)
        bits = {"F32": values.view(np.uint32), "F16": values.astype(np.float16).view(np.uint16),
                "BF16": (values.view(np.uint32) >> 16).astype(np.uint16)}[name]
        return bits.view(np.uint8).reshape(blocks, -1)
    if name == "Q8_K":
        scale = np.append(rng.normal(size=blocks - 4), [3e38 / 128, -1e-38, 1e-45, -0.0]).astype(np.float32)
        data[:, :4] = scale.view(np.uint8).reshape(blocks, 4)
        return data
    for offset in SCALES[name]:
        extremes = EXTREMES if offset == SCALES[name][0] else EXTREMES[1:] + EXTREMES[:1]
        scale = np.append(rng.normal(size=blocks - 4), extremes).astype(np.float16)
        data[:, offset:offset + 2] = scale.view(np.uint8).reshape(blocks, 2)
    return data


def values_of(name, data):
    if name == "Q8_K":
        return data[:, :4].copy().view(np.float32) * data[:, 4:260].view(np.int8).astype(np.float32)
    raw = {"F32": np.float32, "F16": np.float16}.get(name, np.uint8)
    return dequantize(data.reshape(1, -1).view(raw), GGMLQuantizationType[name]).astype(np.float32)


def write_blocks():
    rng = np.random.default_rng(7)
    out = {}
    for name in BLOCK_BYTES:
        data = random_blocks(name, 64 if BLOCK_BYTES[name] <= 4 else 7, rng)
        values = values_of(name, data)
        assert np.isfinite(values).all(), name
        out[name] = {"bytes": data.tobytes().hex(), "values": values.tobytes().hex()}
    (HERE / "gguf_blocks.json").write_text(json.dumps(out, indent=0) + "\n")


def hf_rows(name, values, heads, kv_heads):
    count = {"attn_q": heads, "attn_k": kv_heads}.get(name.split(".")[-2])
    if count is None:
        return values
    rows = values.shape[0] // count
    return values.reshape(count, rows // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)


def write_smollm2(path):
    names = {"token_embd.weight": "model.embed_tokens.weight",
             "output_norm.weight": "model.norm.weight",
             "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj.weight",
             "blk.17.attn_k.weight": "model.layers.17.self_attn.k_proj.weight",
             "blk.17.attn_v.weight": "model.layers.17.self_attn.v_proj.weight",
             "blk.29.ffn_down.weight": "model.layers.29.mlp.down_proj.weight",
             "blk.29.ffn_norm.weight": "model.layers.29.post_attention_layernorm.weight"}
    out = {}
    for tensor in GGUFReader(path).tensors:
        if tensor.name not in names:
            continue
        values = hf_rows(tensor.name, dequantize(tensor.data, tensor.tensor_type), 9, 3)
        flat = values.reshape(-1).astype(np.float64)
        picked = [0, 1, flat.size // 3, flat.size - 1]
        out[names[tensor.name]] = {
            "sum": flat.sum(), "magnitude": np.abs(flat).sum(),
            "weighted": (flat * np.cos(np.arange(flat.size))).sum(),
            "elements": [[i, flat[i]] for i in picked]}
    (HERE / "smollm2_values.json").write_text(json.dumps(out, indent=1) + "\n")


write_blocks()
if len(sys.argv) > 1:
    write_smollm2(sys.argv[1])
