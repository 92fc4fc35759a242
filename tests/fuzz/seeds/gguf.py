"""GGUF files."""

import struct

from seeds.files import to_bytes

U32, F32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9


def text(value):
    data = to_bytes(value)
    return struct.pack("<Q", len(data)) + data


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def u32(name, value):
    return key(name, U32, struct.pack("<I", value))


def f32(name, value):
    return key(name, F32, struct.pack("<f", value))


def string(name, value):
    return key(name, STRING, text(value))


def array(name, kind, values):
    form = {U32: "<I", 5: "<i", F32: "<f"}.get(kind)
    body = b"".join(text(v) if kind == STRING else struct.pack(form, v) for v in values)
    return key(name, ARRAY, struct.pack("<IQ", kind, len(values)) + body)


def gguf(keys, tensors=()):
    """tensors: (name, dims with columns first, ggml type, bytes)."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys)
    data = b""
    for name, dims, kind, content in tensors:
        data += bytes(-len(data) % 32)
        out += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        out += struct.pack("<IQ", kind, len(data))
        data += content
    return out + bytes(-len(out) % 32) + data if tensors else out


def byte_alphabet():
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    names = {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [names[b] for b in range(256)]


def model_keys(vocab):
    return [string("general.architecture", "llama"), u32("llama.block_count", 1),
            u32("llama.context_length", 64), u32("llama.embedding_length", 16),
            u32("llama.feed_forward_length", 16), u32("llama.attention.head_count", 1),
            u32("llama.attention.head_count_kv", 1), u32("llama.rope.dimension_count", 16),
            f32("llama.attention.layer_norm_rms_epsilon", 1e-5), f32("llama.rope.freq_base", 10000),
            u32("llama.vocab_size", vocab)]


def renamed(keys, architecture):
    for entry in keys:
        size = struct.unpack("<Q", entry[:8])[0]
        name = entry[8:8 + size].replace(b"llama.", architecture.encode() + b".")
        yield text(name) + entry[8 + size:]


def model_tensors(vocab):
    def f32s(name, *dims):
        count = 1
        for dim in dims:
            count *= dim
        return (name, dims, 0, struct.pack("<f", 0.5) * count)

    yield f32s("token_embd.weight", 16, vocab)
    yield f32s("output_norm.weight", 16)
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        yield f32s(f"blk.0.{part}.weight", 16, 16)
    for part in ("attn_norm", "ffn_norm"):
        yield f32s(f"blk.0.{part}.weight", 16)


SPM = ["<unk>", "<s>", "</s>", "\u2581", "H", "e", "l", "o", "He", "ll", "Hell", "\u2581w"]
SPM_TYPES = [2, 3, 3] + [1] * 9


def spm_keys():
    return [string("tokenizer.ggml.model", "llama"), array("tokenizer.ggml.tokens", STRING, SPM),
            array("tokenizer.ggml.scores", F32, [0, 0, 0] + [-float(i) for i in range(9)]),
            array("tokenizer.ggml.token_type", 5, SPM_TYPES),
            u32("tokenizer.ggml.bos_token_id", 1), u32("tokenizer.ggml.eos_token_id", 2),
            u32("tokenizer.ggml.unknown_token_id", 0),
            key("tokenizer.ggml.add_bos_token", BOOL, b"\1"),
            string("tokenizer.chat_template", "{{ messages[0].content }}")]


def bpe_keys(pre, tokens):
    return [string("tokenizer.ggml.model", "gpt2"), string("tokenizer.ggml.pre", pre),
            array("tokenizer.ggml.tokens", STRING, tokens),
            array("tokenizer.ggml.merges", STRING, ["H e", "l l", "He ll"]),
            array("tokenizer.ggml.token_type", 5, [1] * (len(tokens) - 1) + [3]),
            u32("tokenizer.ggml.eos_token_id", len(tokens) - 1)]


BLOCKS = {2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
          11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
          20: (32, 18), 1: (1, 2), 30: (1, 2), 28: (1, 8), 24: (1, 1), 99: (1, 1)}


def gguf_seeds():
    yield gguf([])
    yield gguf(model_keys(12) + spm_keys(), [*model_tensors(12)])
    few = ["H", "e", "l", "o", "He", "ll", "Hell", "\u0120w", "<|end|>"]
    for pre in ("gpt-2", "smollm", "llama-bpe", "qwen2", "falcon", "starcoder", "deepseek-llm", "odd"):
        yield gguf(bpe_keys(pre, few))
    yield gguf(bpe_keys("gpt-2", byte_alphabet() + ["He", "ll", "Hell", "<|end|>"]))
    for kind, (elements, size) in BLOCKS.items():
        yield gguf([], [("t", (elements * 2, 2), kind, bytes([60, 1]) * (size * 2))])
    scalars = [key(f"k{kind}", kind, bytes(size)) for kind, size in
               ((0, 1), (1, 1), (2, 2), (3, 2), (5, 4), (7, 1), (10, 8), (11, 8), (12, 8))]
    yield gguf(scalars + [array("a", U32, [1, 2]), array("s", STRING, ["x", ""])])
    yield gguf([u32("split.count", 2), u32("split.no", 0), u32("split.tensors.count", 2)])
    yield gguf([u32("general.alignment", 64)] + model_keys(4))
    scaling = [string("llama.rope.scaling.type", "linear"), f32("llama.rope.scaling.factor", 2)]
    yield gguf(model_keys(12) + spm_keys() + scaling, [*model_tensors(12)])
    scaling = [string("llama.rope.scaling.type", "yarn"), f32("llama.rope.scaling.factor", 4),
               u32("llama.rope.scaling.original_context_length", 16), f32("llama.rope.scaling.attn_factor", 1),
               f32("llama.rope.scaling.yarn_beta_fast", 32), f32("llama.rope.scaling.yarn_beta_slow", 1)]
    yield gguf(model_keys(12) + spm_keys() + scaling, [*model_tensors(12)])
    factors = ("rope_freqs.weight", (8,), 0, struct.pack("<8f", 1, 1, 1, 1.5, 2, 4, 8, 8))
    yield gguf(model_keys(12) + spm_keys(), [*model_tensors(12), factors])
    for architecture in ("qwen2", "qwen3", "phi3", "gptneox", "mistral", "gemma"):
        yield gguf([string("general.architecture", architecture), *renamed(model_keys(12)[1:], architecture)],
                   [*model_tensors(12)])
