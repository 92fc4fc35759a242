#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A tiny random model of every family as Transformers saves it, and its logits in fp64, whole and as a hybrid.

    python tests/golden/make_families.py [case ...]          # writes tests/golden/families/<case>/
    python tests/golden/make_families.py --check DIR         # DIR/<case>, DIR/<case>-hybrid: written by longgen

README.md beside this file describes the files. --check loads directories that `longgen convert` wrote with
Transformers' own AutoModelForCausalLM and compares logits, in fp32. Run by hand on copies of the cases with any
tokenizer.json of at most 61 tokens beside them, it found all sixteen within 1.3e-6 (Transformers 5.23.0):

    for c in cases/*/; do n=$(basename $c)
      longgen convert $c -o out/$n --dtype f32
      longgen convert $c -o out/$n-hybrid --dtype f32 --hybrid "full=1 sparse=local:2,sink:1,block:16"
    done; python tests/golden/make_families.py --check out
"""

import json
import os
import sys
import tempfile
import zlib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import make_tiny_models as tiny
import modeling_longgen as hybrids
import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent / "families"
TOKENS, VOCAB = 96, 61
COMMON = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
              max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=None)
LLAMA = COMMON | dict(intermediate_size=48, num_key_value_heads=1, rms_norm_eps=1e-5)
LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
# Layer 1 sees everything; the others the first block and the last two.
SPARSE = {"block_size": 16, "sink_blocks": 1, "local_blocks": 2, "stride": 0, "offsets": [0]}
HYBRID = {"format_version": 1, "patterns": [SPARSE, tiny.FULL | {"block_size": 16}], "layer_patterns": [0, 1, 0]}

# name: (family, class of its configuration, keys, longgen's names of the rotation, rotating channels)
DEFAULT = dict(type="default", theta=10000.0)
CASES = {
    "llama3": ("Llama", LLAMA | dict(rope_parameters=LLAMA3),
               dict(type="llama3", theta=5e5) | {k: v for k, v in LLAMA3.items() if not k.startswith("rope_")}, 16),
    "mistral": ("Mistral", LLAMA | dict(head_dim=32, sliding_window=None, rope_parameters=dict(rope_theta=1e6)),
                dict(type="default", theta=1e6), 32),
    "qwen2": ("Qwen2", LLAMA | dict(tie_word_embeddings=True, sliding_window=16), DEFAULT, 16),
    "qwen3": ("Qwen3", LLAMA | dict(head_dim=32), DEFAULT, 32),
    "phi3": ("Phi3", LLAMA | dict(rope_parameters=dict(rope_theta=10000.0, partial_rotary_factor=0.75)), DEFAULT, 12),
    "pythia": ("GPTNeoX", COMMON | dict(intermediate_size=64, num_key_value_heads=2), DEFAULT, 4),
    "gpt_neox_sequential": ("GPTNeoX", COMMON | dict(
        intermediate_size=64, use_parallel_residual=False, attention_bias=False, hidden_act="gelu_new",
        rope_parameters=dict(rope_theta=20000.0, partial_rotary_factor=0.5)), dict(type="default", theta=20000.0), 8),
    "opt": ("OPT", COMMON | dict(ffn_dim=64, word_embed_proj_dim=32, tie_word_embeddings=True), None, 0),
}


def randomise(model, rng):
    """Weights large enough that attention is far from uniform, every value exact in fp32."""
    for name, p in model.named_parameters():
        values = rng.standard_normal(tuple(p.shape))
        is_norm = "norm" in name
        std = 0.1 if name.endswith("bias") else 0.2 if is_norm else 0.6 if "embed" in name else 0.25
        values = values * std + (1.0 if is_norm and name.endswith("weight") else 0.0)
        p.data = torch.from_numpy(values).float()


@torch.no_grad()
def logits_of(model, ids, rope=None, rotary_dim=0):
    """In fp64 with Transformers' fp32 formulas replaced, or (without a rope) as the model is."""
    if rotary_dim >= 0:
        model = model.double().eval()
        model.config._attn_implementation = "eager_fp64"
        tiny.use_fp64_formulas(model, rope, rotary_dim)
    return model(input_ids=ids[None], use_cache=False).logits[0].clone()


def make(name):
    family, keys, rope, rotary_dim = CASES[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    config = getattr(transformers, family + "Config")(**keys)
    model = getattr(transformers, family + "ForCausalLM")(config).float().eval()
    randomise(model, rng)
    ids = torch.from_numpy(rng.integers(3, VOCAB, TOKENS))
    out = HERE / name
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:  # the library writes more files than are kept
        model.save_pretrained(folder)
        for file in ("config.json", "model.safetensors"):
            (out / file).write_bytes((Path(folder) / file).read_bytes())

    prefix = "Longgen" if family == "Llama" else f"Longgen{family}"
    longgen = HYBRID | {"base_model_type": config.model_type}
    hybrid_config = getattr(hybrids, prefix + "Config")(**keys, longgen=longgen)
    hybrid = getattr(hybrids, prefix + "ForCausalLM")(hybrid_config)
    hybrid.load_state_dict(model.state_dict())
    tensors = {"ids": ids}
    for kind, m in (("logits", model), ("hybrid_logits", hybrid)):
        m.config._attn_implementation = "eager"
        plain = logits_of(m.eval(), ids, rotary_dim=-1)
        tensors[kind] = logits_of(m, ids, rope, rotary_dim)
        assert tiny.relative(plain, tensors[kind]) < 1e-5, "differs from the untouched modules in fp32"
    assert tiny.relative(tensors["hybrid_logits"], tensors["logits"]) > 1e-3, "the hybrid is no hybrid"
    save_file(tensors, out / "expected.safetensors")
    (out / "parameters.json").write_text(json.dumps({"num_parameters": model.num_parameters()}) + "\n")
    print(f"{name:22} {model.num_parameters():6} parameters, logits std {tensors['logits'].std():.2f}, hybrid differs by "
          f"{tiny.relative(tensors['hybrid_logits'], tensors['logits']):.2f}")


@torch.no_grad()
def check(folder):
    for name in CASES:
        expected = load_file(HERE / name / "expected.safetensors")
        for kind, suffix in (("logits", ""), ("hybrid_logits", "-hybrid")):
            path = folder / (name + suffix)
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                path, trust_remote_code=True, dtype=torch.float32, output_loading_info=True)
            assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), (path, info)
            error = tiny.relative(model(input_ids=expected["ids"][None]).logits[0], expected[kind])
            again = model.generate(expected["ids"][None, :40], max_new_tokens=8, do_sample=False)
            print(f"{path}: {type(model).__name__}, logits differ by {error:.1e}, generates {again[0, 40:].tolist()}")
            assert error < 1e-5, path


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--check"]:
        check(Path(sys.argv[2]))
    else:
        for case in sys.argv[1:] or CASES:
            make(case)
