"""Whole models, as small as they are let: Hugging Face directories with weights, split GGUF files."""

from seeds.files import NEXT, safetensors, tensor, to_bytes
from seeds.gguf import (f32, gguf, model_keys, model_tensors, renamed, spm_keys, string, u32)

HEADS, HEAD_DIM, MLP, VOCAB = 1, 16, 2, 3
CODES = {"F32": b"\0\0\0\x3f", "F16": b"\0\x38", "BF16": b"\0\x3f"}  # 0.5


def shapes_of(family, hidden):
    """Name and shape of every tensor of one layer's model."""
    rows = HEADS * HEAD_DIM
    if family == "gpt_neox":
        layer = "gpt_neox.layers.0."
        yield "gpt_neox.embed_in.weight", [VOCAB, hidden]
        for part, shape in (("attention.query_key_value", [3 * rows, hidden]), ("attention.dense", [hidden, rows]),
                            ("mlp.dense_h_to_4h", [MLP, hidden]), ("mlp.dense_4h_to_h", [hidden, MLP]),
                            ("input_layernorm", [hidden]), ("post_attention_layernorm", [hidden])):
            yield f"{layer}{part}.weight", shape
            yield f"{layer}{part}.bias", shape[:1]
        yield layer + "attention.masked_bias", [1]
        yield "gpt_neox.final_layer_norm.weight", [hidden]
        yield "gpt_neox.final_layer_norm.bias", [hidden]
        yield "embed_out.weight", [VOCAB, hidden]
        return
    if family == "opt":
        layer = "model.decoder.layers.0."
        yield "model.decoder.embed_tokens.weight", [VOCAB, hidden]
        yield "model.decoder.embed_positions.weight", [4 + 2, hidden]
        for part, shape in (*((f"self_attn.{p}_proj", [rows, hidden]) for p in ("q", "k", "v", "out")),
                            ("fc1", [MLP, hidden]), ("fc2", [hidden, MLP]), ("self_attn_layer_norm", [hidden]),
                            ("final_layer_norm", [hidden])):
            yield f"{layer}{part}.weight", shape
            yield f"{layer}{part}.bias", shape[:1]
        yield "model.decoder.final_layer_norm.weight", [hidden]
        yield "model.decoder.final_layer_norm.bias", [hidden]
        return
    layer = "model.layers.0."
    yield "model.embed_tokens.weight", [VOCAB, hidden]
    if family == "phi3":
        yield layer + "self_attn.qkv_proj.weight", [3 * rows, hidden]
        yield layer + "mlp.gate_up_proj.weight", [2 * MLP, hidden]
    else:
        for p in "qkv":
            yield f"{layer}self_attn.{p}_proj.weight", [rows, hidden]
            if family == "qwen2":
                yield f"{layer}self_attn.{p}_proj.bias", [rows]
        for p in ("gate", "up"):
            yield f"{layer}mlp.{p}_proj.weight", [MLP, hidden]
    if family == "qwen3":
        yield layer + "self_attn.q_norm.weight", [HEAD_DIM]
        yield layer + "self_attn.k_norm.weight", [HEAD_DIM]
    yield layer + "self_attn.o_proj.weight", [hidden, rows]
    yield layer + "mlp.down_proj.weight", [hidden, MLP]
    yield layer + "input_layernorm.weight", [hidden]
    yield layer + "post_attention_layernorm.weight", [hidden]
    yield "model.norm.weight", [hidden]
    yield "lm_head.weight", [VOCAB, hidden]


def weights_file(shapes, dtypes=("F32",)):
    header, data = {}, b""
    for i, (name, shape) in enumerate(shapes):
        dtype, count = dtypes[i % len(dtypes)], 1
        for dim in shape:
            count *= dim
        content = CODES[dtype] * count
        header[name] = tensor(dtype, shape, len(data), len(data) + len(content))
        data += content
    return safetensors(header, data)


def config_of(family, hidden, **changes):
    config = {"model_type": family, "vocab_size": VOCAB, "hidden_size": hidden, "intermediate_size": MLP,
              "num_hidden_layers": 1, "num_attention_heads": HEADS, "max_position_embeddings": 4}
    if family not in ("opt", "gpt_neox"):
        config |= {"num_key_value_heads": 1, "head_dim": HEAD_DIM, "rms_norm_eps": 1e-5,
                   "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": [2]}
    if family == "opt":
        config["ffn_dim"] = config.pop("intermediate_size")
    return config | changes


def directory(config, weights, second=b"", index="", generation="", tokenizer=""):
    return NEXT.encode().join(to_bytes(p) for p in (config, generation, tokenizer, index, weights, second))


def directory_seeds():
    for family in ("llama", "mistral", "qwen2", "qwen3", "phi3", "gpt_neox", "opt"):
        hidden = HEADS * HEAD_DIM if family in ("gpt_neox", "opt") else 2
        dtypes = ("BF16",) if family in ("llama", "opt") else ("F16", "F32", "BF16")
        yield directory(config_of(family, hidden), weights_file(shapes_of(family, hidden), dtypes))
    shapes = list(shapes_of("llama", 2))
    config = config_of("llama", 2)
    index = {"metadata": {"total_size": 8},
             "weight_map": {name: f"{'ab'[i % 2]}.safetensors" for i, (name, _) in enumerate(shapes)}}
    halves = weights_file(shapes[::2]), weights_file(shapes[1::2])
    yield directory(config, *halves, index)
    yield directory(config, *halves, index, {"eos_token_id": 2, "do_sample": True, "temperature": 0.5},
                    {"chat_template": [{"name": "default", "template": "{{ messages }}"}]})
    tied = config | {"tie_word_embeddings": True}
    yield directory(tied, weights_file(shapes))  # a head that is the embedding once more
    yield directory(tied, weights_file(shapes[:-1]))
    yield directory(config, weights_file(shapes[:-1]))
    yield directory(config, b"", generation={"pad_token_id": 0}, tokenizer={"chat_template": "x"})
    full = {"block_size": 64, "sink_blocks": 0, "local_blocks": None, "stride": 0, "offsets": [0]}
    yield directory(config | {"model_type": "longgen", "layer_types": ["full_attention"],
                              "longgen": {"format_version": 1, "base_model_type": "llama", "patterns": [full],
                                          "layer_patterns": [0]}}, weights_file(shapes))
    yield directory(config_of("qwen3", 2, tie_word_embeddings=True),
                    weights_file([*list(shapes_of("qwen3", 2))[:-1], ("model.layers.0.rotary_emb.inv_freq", [2])]))


# --- GGUF ---
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 8: (32, 34), 12: (256, 144), 14: (256, 210)}


def f16s(name, *dims):
    count = dims[0] * (dims[1] if len(dims) == 2 else 1)
    return name, dims, 1, CODES["F16"] * count


def gguf_tensors(hidden, mlp, kinds):
    """One layer; a matrix whose rows do not hold whole blocks of its kind is F16."""
    rows = HEADS * HEAD_DIM
    shapes = {"token_embd": (hidden, VOCAB), "blk.0.attn_q": (hidden, rows), "blk.0.attn_k": (hidden, rows),
              "blk.0.attn_v": (hidden, rows), "blk.0.attn_output": (rows, hidden), "blk.0.ffn_gate": (hidden, mlp),
              "blk.0.ffn_up": (hidden, mlp), "blk.0.ffn_down": (mlp, hidden), "blk.0.attn_norm": (hidden,),
              "blk.0.ffn_norm": (hidden,), "output_norm": (hidden,)}
    for i, (name, dims) in enumerate(shapes.items()):
        kind = kinds[i % len(kinds)] if len(dims) == 2 else 0
        if dims[0] % BLOCKS[kind][0] != 0:
            kind = 1
        elements, size = BLOCKS[kind]
        count = dims[0] * (dims[1] if len(dims) == 2 else 1) // elements
        yield name + ".weight", dims, kind, bytes(b % 48 for b in range(size)) * count


def fused_tensors(architecture, hidden, mlp):
    """One layer of GPT-NeoX or Phi-3: q, k and v in one tensor, and Phi-3's gate and up."""
    rows, neox = HEADS * HEAD_DIM, architecture == "gptneox"
    shapes = {"token_embd": (hidden, VOCAB), "output": (hidden, VOCAB), "output_norm": (hidden,),
              "blk.0.attn_qkv": (hidden, 3 * rows), "blk.0.attn_output": (rows, hidden),
              "blk.0.ffn_up": (hidden, mlp if neox else 2 * mlp), "blk.0.ffn_down": (mlp, hidden),
              "blk.0.attn_norm": (hidden,), "blk.0.ffn_norm": (hidden,)}
    for name, dims in shapes.items():
        yield f16s(name + ".weight", *dims)
        if neox and name not in ("token_embd", "output"):
            yield f16s(name + ".bias", dims[-1])


def gguf_model(hidden, mlp):
    return [string("general.architecture", "llama"), u32("llama.block_count", 1), u32("llama.context_length", 4),
            u32("llama.embedding_length", hidden), u32("llama.feed_forward_length", mlp),
            u32("llama.attention.head_count", HEADS), u32("llama.attention.key_length", HEAD_DIM),
            u32("llama.attention.value_length", HEAD_DIM), u32("llama.rope.dimension_count", HEAD_DIM),
            f32("llama.attention.layer_norm_rms_epsilon", 1e-5), u32("llama.vocab_size", VOCAB)]


def split(keys, tensors, count):
    tensors = list(tensors)
    parts = []
    for part in range(count):
        own = keys if part == 0 else []
        numbers = [u32("split.no", part), u32("split.count", count), u32("split.tensors.count", len(tensors))]
        parts.append(gguf(own + numbers, tensors[part::count]))
    return NEXT.encode().join(parts)


def parts_seeds():
    yield split(gguf_model(2, 2), gguf_tensors(2, 2, [0]), 2)
    yield split(gguf_model(2, 2), gguf_tensors(2, 2, [1]), 1)
    for kind in (2, 3, 8):
        yield split(gguf_model(32, 32), gguf_tensors(32, 32, [kind, 8]), 3)
    for kind in (12, 14):  # the columns of the last matrix alone are 256
        yield split(gguf_model(2, 256), gguf_tensors(2, 256, [kind]), 2)
    yield split(model_keys(12) + spm_keys(), model_tensors(12), 2)
    for architecture, more in (("gptneox", [f32("gptneox.attention.layer_norm_epsilon", 1e-5)]), ("phi3", [])):
        keys = [string("general.architecture", architecture), *renamed(gguf_model(16, 2)[1:], architecture), *more]
        yield split(keys, fused_tensors(architecture, 16, 2), 2)
    whole = split(gguf_model(2, 2), gguf_tensors(2, 2, [0]), 2)
    first, second = whole.split(NEXT.encode())
    yield NEXT.encode().join((first, first))
    yield NEXT.encode().join((second, first))
    yield first + NEXT.encode() + second[:40]
