#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Golden files of tiny random models: logits, loss and every gradient, by Transformers' own modules in fp64.

    python tests/golden/make_tiny_models.py [case ...]     # writes tests/golden/models/<case>.{safetensors,json}

README.md beside this file describes the files. Transformers computes three things in fp32 whatever the model's
dtype, so they are replaced here by the same formula in fp64: the softmax of eager attention, RMSNorm, and the rotary
table, which longgen builds in fp64 and keeps in fp32. Each case is checked against the untouched modules in fp32.
"""

import json
import math
import os
import sys
import types
import zlib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding, repeat_kv
from transformers.models.mistral.modeling_mistral import MistralRMSNorm, MistralRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm, Phi3RotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, Qwen2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, Qwen3RotaryEmbedding

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "longgen" / "formats" / "hf"))
from modeling_longgen import LonggenConfig, LonggenForCausalLM  # noqa: E402

VOCAB = 61
FULL = {"block_size": 64, "sink_blocks": 0, "local_blocks": None, "stride": 0, "offsets": [0]}


# ---- The fp64 replacements ------------------------------------------------------------------------------------------


def eager_fp64(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Transformers' eager_attention_forward, its softmax in the dtype of its input instead of fp32."""
    groups = query.shape[1] // key.shape[1]
    scores = torch.matmul(query, repeat_kv(key, groups).transpose(2, 3)) * scaling + attention_mask
    output = torch.matmul(F.softmax(scores, dim=-1), repeat_kv(value, groups))
    return output.transpose(1, 2).contiguous(), None


def rms_norm(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def inverse_frequencies(rope, dim):
    """fp64 inverse frequencies and attention factor; the formulas of Transformers' modeling_rope_utils.py."""
    theta, kind = rope["theta"], rope["type"]
    inv = [theta ** -(2.0 * i / dim) for i in range(dim // 2)]
    if kind == "default":
        return inv, 1.0
    if kind == "linear":
        return [f / rope["factor"] for f in inv], 1.0
    old = rope["original_max_position_embeddings"]
    if kind == "llama3":
        low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]

        def scale(f):
            wavelength = 2 * math.pi / f
            if wavelength < old / high:
                return f
            if wavelength > old / low:
                return f / factor
            smooth = (old / wavelength - low) / (high - low)
            return (1 - smooth) * f / factor + smooth * f

        return [scale(f) for f in inv], 1.0
    if kind == "yarn":

        def correction(rotations):
            return dim * math.log(old / (rotations * 2 * math.pi)) / (2 * math.log(theta))

        low = max(math.floor(correction(rope["beta_fast"])), 0)
        high = min(math.ceil(correction(rope["beta_slow"])), dim - 1)
        high = high + 0.001 if low == high else high
        ramp = [min(max((i - low) / (high - low), 0.0), 1.0) for i in range(dim // 2)]
        return [f / rope["factor"] * r + f * (1 - r) for f, r in zip(inv, ramp)], rope["attention_factor"]
    raise ValueError(kind)


def rotary_table(self, x, position_ids):
    """cos and sin of fp64 angles, times the attention factor, rounded to fp32, then in the model's dtype."""
    inv, factor = self.inv_freq_fp64
    angles = [[p * f for f in inv] * 2 for p in position_ids[0].tolist()]
    cos, sin = ([[fn(a) * factor for a in row] for row in angles] for fn in (math.cos, math.sin))
    return tuple(torch.tensor([t], dtype=torch.float64).float().to(x.dtype) for t in (cos, sin))


def use_fp64_formulas(model, rope, rotary_dim):
    norms = (LlamaRMSNorm, MistralRMSNorm, Phi3RMSNorm, Qwen2RMSNorm, Qwen3RMSNorm)
    rotary = (LlamaRotaryEmbedding, MistralRotaryEmbedding, Phi3RotaryEmbedding, Qwen2RotaryEmbedding,
              Qwen3RotaryEmbedding, GPTNeoXRotaryEmbedding)
    for module in model.modules():
        if isinstance(module, norms):
            module.forward = types.MethodType(rms_norm, module)
        elif isinstance(module, rotary):
            inv, factor = inverse_frequencies(rope, rotary_dim)
            theirs = module.inv_freq.double()
            assert torch.allclose(theirs, torch.tensor(inv, dtype=torch.float64), rtol=1e-5), "inverse frequencies"
            assert abs(module.attention_scaling - factor) < 1e-12, "attention factor"
            module.inv_freq_fp64 = (inv, factor)
            module.forward = types.MethodType(rotary_table, module)


AttentionInterface.register("eager_fp64", eager_fp64)
AttentionMaskInterface.register("eager_fp64", eager_mask)


# ---- The families ---------------------------------------------------------------------------------------------------


def hf_config(cfg):
    """The Transformers configuration of a longgen ModelConfig. pad_token_id None, or its embedding gets no gradient."""
    rope = cfg.get("rope", {})
    shared = dict(
        vocab_size=cfg["vocab_size"],
        hidden_size=cfg["hidden_size"],
        num_hidden_layers=cfg["num_hidden_layers"],
        num_attention_heads=cfg["num_attention_heads"],
        max_position_embeddings=cfg["max_position_embeddings"],
        tie_word_embeddings=cfg["tie_word_embeddings"],
        pad_token_id=None,
    )
    rope_parameters = {"rope_type": rope.get("type"), "rope_theta": rope.get("theta")}
    rope_parameters |= {k: v for k, v in rope.items() if k not in ("type", "theta")}
    hf_act = {"gelu_tanh": "gelu_pytorch_tanh"}.get(cfg["hidden_act"], cfg["hidden_act"])
    if cfg["family"] == "gpt_neox":
        rope_parameters["partial_rotary_factor"] = cfg["rotary_dim"] / cfg["head_dim"]
        return transformers.GPTNeoXConfig(
            **shared,
            intermediate_size=cfg["intermediate_size"],
            layer_norm_eps=cfg["norm_eps"],
            hidden_act=hf_act,
            use_parallel_residual=cfg["parallel_residual"],
            rope_parameters=rope_parameters,
        )
    if cfg["family"] == "opt":
        return transformers.OPTConfig(
            **shared,
            ffn_dim=cfg["intermediate_size"],
            word_embed_proj_dim=cfg["hidden_size"],
            activation_function=hf_act,
            do_layer_norm_before=True,
            dropout=0.0,
        )
    llama_like = shared | dict(
        intermediate_size=cfg["intermediate_size"],
        num_key_value_heads=cfg["num_key_value_heads"],
        rms_norm_eps=cfg["norm_eps"],
        hidden_act=hf_act,
        head_dim=cfg["head_dim"],
        rope_parameters=rope_parameters,
    )
    if cfg["family"] == "qwen2":
        return transformers.Qwen2Config(**llama_like)
    if cfg["family"] == "qwen3":
        return transformers.Qwen3Config(**llama_like)
    llama_like |= dict(attention_bias=cfg["qkv_bias"], mlp_bias=cfg["mlp_bias"])
    if all(p["local_blocks"] is None for p in cfg["patterns"]):
        return transformers.LlamaConfig(**llama_like)
    longgen = dict(format_version=1, base_model_type="llama")
    return LonggenConfig(**llama_like, longgen=longgen | {k: cfg[k] for k in ("patterns", "layer_patterns")})


MODELS = {
    "llama": transformers.LlamaForCausalLM,
    "longgen": LonggenForCausalLM,
    "qwen2": transformers.Qwen2ForCausalLM,
    "qwen3": transformers.Qwen3ForCausalLM,
    "gpt_neox": transformers.GPTNeoXForCausalLM,
    "opt": transformers.OPTForCausalLM,
}

RENAMES = {
    "gpt_neox": {
        "gpt_neox.": "model.",
        "embed_in": "embed_tokens",
        "final_layer_norm": "norm",
        "attention.dense": "self_attn.o_proj",
        "attention.query_key_value": "self_attn.qkv",
        "dense_h_to_4h": "up_proj",
        "dense_4h_to_h": "down_proj",
    },
    "opt": {
        "model.decoder.": "model.",
        "model.final_layer_norm": "model.norm",
        "self_attn_layer_norm": "input_layernorm",
        ".final_layer_norm": ".post_attention_layernorm",
        "out_proj": "o_proj",
        "fc1": "mlp.up_proj",
        "fc2": "mlp.down_proj",
    },
}


def canonical(cfg, name, tensor):
    """[(longgen name, tensor)] of a Transformers parameter or gradient: Llama's names, fused q/k/v taken apart."""
    for old, new in RENAMES.get(cfg["family"], {}).items():
        name = name.replace(old, new)
    if "self_attn.qkv." not in name:
        return [(name, tensor)]
    # GPT-NeoX fuses per head: rows are [heads, (q, k, v), head_dim].
    parts = tensor.reshape(cfg["num_attention_heads"], 3, cfg["head_dim"], -1).unbind(1)
    return [
        (name.replace("qkv", f"{part}_proj"), t.reshape(cfg["hidden_size"], *tensor.shape[1:]))
        for part, t in zip("qkv", parts)
    ]


# ---- The cases ------------------------------------------------------------------------------------------------------


def llama(**changes):
    cfg = dict(
        family="llama",
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        norm="rms",
        norm_eps=1e-5,
        norm_bias=False,
        qkv_bias=False,
        o_bias=False,
        mlp_bias=False,
        hidden_act="silu",
        gated_mlp=True,
        parallel_residual=False,
        position="rope",
        rotary_dim=16,
        rope=dict(theta=10000.0, type="default"),
        qk_norm=False,
        tie_word_embeddings=False,
        max_position_embeddings=256,
        patterns=[FULL],
        documents="concat",
    )
    cfg |= changes
    cfg.setdefault("layer_patterns", [0] * cfg["num_hidden_layers"])
    return cfg


def gpt_neox(**changes):
    biased = dict(norm="layer", norm_bias=True, qkv_bias=True, o_bias=True, mlp_bias=True, gated_mlp=False)
    return llama(**dict(family="gpt_neox", num_key_value_heads=2, hidden_act="gelu", **biased) | changes)


def opt(**changes):
    learned = dict(position="learned", rotary_dim=0, learned_position_offset=2, max_position_embeddings=80)
    cfg = gpt_neox(**dict(family="opt", hidden_act="relu", tie_word_embeddings=True, **learned) | changes)
    del cfg["rope"]
    return cfg


def hybrid(layers, **pattern):
    """Llama of four layers: layers[i] is 1 where layer i keeps full attention, else it has the given pattern."""
    sparse = dict(block_size=16, sink_blocks=0, local_blocks=2, stride=0, offsets=[0]) | pattern
    full = FULL | {"block_size": sparse["block_size"]}
    heads = dict(num_attention_heads=4, num_key_value_heads=2, intermediate_size=32)
    return llama(num_hidden_layers=len(layers), patterns=[sparse, full], layer_patterns=layers, **heads)


def rope(kind, **keys):
    return llama(rope=dict(theta=10000.0, type=kind) | keys)


YARN = dict(theta=500.0, factor=4.0, original_max_position_embeddings=64, beta_fast=4.0, beta_slow=0.5)
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)

# name: (configuration, tokens), or a list of document lengths for isolated documents.
CASES = {
    "llama_gqa": (llama(hidden_size=48, num_attention_heads=6, num_key_value_heads=2, head_dim=16), 64),
    "llama_mha_head32": (llama(num_key_value_heads=2, head_dim=32, rotary_dim=32), 47),
    "llama_head48": (llama(hidden_size=48, head_dim=48, rotary_dim=48), 40),
    "llama_bias": (llama(qkv_bias=True, o_bias=True, mlp_bias=True), 50),
    "smollm2_like": (
        llama(hidden_size=48, num_attention_heads=3, tie_word_embeddings=True, rope=dict(theta=1e5, type="default")),
        64,
    ),
    "rope_linear": (rope("linear", factor=4.0), 80),
    "rope_llama3": (rope("llama3", **LLAMA3), 96),
    "rope_yarn": (rope("yarn", attention_factor=0.1 * math.log(4.0) + 1.0, **YARN), 96),
    "qwen2": (llama(family="qwen2", qkv_bias=True, norm_eps=1e-6, tie_word_embeddings=True), 64),
    "qwen3": (llama(family="qwen3", qk_norm=True, norm_eps=1e-6, num_attention_heads=4, num_key_value_heads=2), 64),
    "gpt_neox_parallel": (gpt_neox(parallel_residual=True, rotary_dim=4), 64),
    "gpt_neox_sequential": (gpt_neox(rotary_dim=8, hidden_act="gelu_tanh"), 64),
    "opt": (opt(), 64),
    "hybrid_sink_window": (hybrid([0, 1, 1, 0], sink_blocks=1), 150),
    "hybrid_window": (hybrid([1, 0, 1, 0], local_blocks=3), 113),
    "hybrid_strided": (hybrid([0, 0, 1], sink_blocks=1, stride=3, offsets=[1], local_blocks=1), 160),
    "hybrid_strided_heads": (hybrid([0, 1, 0], stride=4, offsets=[0, 2], local_blocks=2), 160),
    "hybrid_block32": (hybrid([1, 0, 0], sink_blocks=1, block_size=32, local_blocks=1), 130),
    "isolated": (hybrid([0, 1, 0], sink_blocks=1, local_blocks=1) | {"documents": "isolated"}, [50, 33, 16]),
}


# ---- Making them ----------------------------------------------------------------------------------------------------


def randomise(model, rng):
    """Weights large enough that attention is far from uniform, every value exact in fp32."""
    for name, p in model.named_parameters():
        values = rng.standard_normal(tuple(p.shape))
        is_norm = "norm" in name
        std = 0.1 if name.endswith("bias") else 0.2 if is_norm else 0.6 if "embed" in name else 0.25
        values = values * std + (1.0 if is_norm and name.endswith("weight") else 0.0)
        p.data = torch.from_numpy(values).float().double()


def documents_of(cfg, length):
    """[(start, real length, padded length)]: one document, or each padded to a block boundary."""
    if cfg["documents"] == "concat":
        return [(0, length, length)]
    block, start, documents = cfg["patterns"][0]["block_size"], 0, []
    for real in length:
        padded = -(-real // block) * block
        documents.append((start, real, padded))
        start += padded
    return documents


def run(model, ids, labels, documents):
    """Logits, mean loss, gradients. Each isolated document is a call of its own, so its positions restart."""
    model.zero_grad()
    pieces = [model(input_ids=ids[None, s : s + padded], use_cache=False).logits[0] for s, _, padded in documents]
    logits = torch.cat(pieces)
    valid = labels >= 0
    loss = F.cross_entropy(logits[valid], labels[valid])
    loss.backward()
    return logits.detach(), loss.detach(), {n: p.grad.double().clone() for n, p in model.named_parameters()}


def relative(a, b):
    return ((a.double() - b).norm() / b.norm()).item()


def make(name):
    cfg, length = CASES[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    documents = documents_of(cfg, length)
    total = sum(padded for _, _, padded in documents)
    ids = torch.from_numpy(rng.integers(3, VOCAB, total))
    labels = torch.full((total,), -1)
    for start, real, padded in documents:
        labels[start : start + real - 1] = ids[start + 1 : start + real]
        ids[start + real : start + padded] = 0
    if name == "llama_bias":
        labels[10:20] = -1  # targets that do not count

    config = hf_config(cfg)
    config._attn_implementation = "eager"
    model = MODELS[config.model_type](config).double().eval()
    randomise(model, rng)
    untouched = MODELS[config.model_type](config).eval()  # fp32, nothing replaced
    untouched.load_state_dict(model.state_dict())
    plain = run(untouched, ids, labels, documents)[0]

    config._attn_implementation = "eager_fp64"
    use_fp64_formulas(model, cfg.get("rope"), cfg["rotary_dim"])
    logits, loss, grads = run(model, ids, labels, documents)
    assert logits.dtype == loss.dtype == torch.float64
    assert relative(plain, logits) < 1e-4, "differs from the untouched modules in fp32"
    params = {n: p.detach().float() for n, p in model.named_parameters()}
    logits32, _, grads32 = run(model.float(), ids, labels, documents)
    worst = max((relative(grads32[n], g), n) for n, g in grads.items() if g.norm() > 1e-9)

    tensors = {"ids": ids, "labels": labels, "logits": logits, "loss": loss.reshape(1)}
    if cfg["documents"] == "isolated":
        tensors["document_starts"] = torch.tensor([s for s, _, _ in documents])
        tensors["document_lengths"] = torch.tensor([real for _, real, _ in documents])
    for kind, named in (("param", params), ("grad", grads)):
        for hf_name, tensor in named.items():
            tensors |= {f"{kind}.{n}": t.contiguous() for n, t in canonical(cfg, hf_name, tensor)}
    out = HERE / "models" / name
    save_file(tensors, f"{out}.safetensors")
    Path(f"{out}.json").write_text(json.dumps(cfg, indent=1) + "\n")
    print(
        f"{name:22} T {total:3}  loss {loss:.6f}  logits std {logits.std():.2f}  fp32 against fp64: logits "
        f"{relative(logits32, logits):.1e}, worst gradient {worst[0]:.1e} {worst[1]}"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    (HERE / "models").mkdir(exist_ok=True)
    for case in sys.argv[1:] or CASES:
        make(case)
