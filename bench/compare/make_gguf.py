"""Writes a GGUF file of SmolLM2-135M's shape with random weights, for machines without the model.

usage: make_gguf.py OUT.gguf [--weights bf16|q4_1]

Times do not depend on the values. Matrices are bf16, or Q4_1 with a Q8_0 embedding as in the
published file; norms are F32. The vocabulary is made up: single bytes and placeholders.
"""
import argparse
import struct

import numpy as np

LAYERS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 30, 576, 1536, 9, 3, 64, 49152
F32, Q4_1, Q8_0, BF16 = 0, 3, 8, 30  # ggml's numbers of types
UINT32, FLOAT32, STRING, ARRAY = 4, 6, 8, 9
INT32 = 5
ALIGNMENT = 32


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def strings(texts):
    return struct.pack("<IQ", STRING, len(texts)) + b"".join(map(string, texts))


def byte_characters():
    """GPT-2's printable stand-ins of the 256 bytes."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in own]
    return [chr(b) for b in own] + [chr(256 + i) for i in range(len(rest))]


def metadata():
    tokens = byte_characters() + ["\u0120t"]
    tokens += [f"<placeholder {i}>" for i in range(len(tokens), VOCAB)]
    kinds = struct.pack("<IQ", INT32, VOCAB) + np.ones(VOCAB, "<i4").tobytes()
    u32, f32 = (lambda x: (UINT32, struct.pack("<I", x))), (lambda x: (FLOAT32, struct.pack("<f", x)))
    text = lambda x: (STRING, string(x))  # noqa: E731
    return {
        "general.architecture": text("llama"), "general.name": text("SmolLM2-135M shape, random"),
        "llama.block_count": u32(LAYERS), "llama.context_length": u32(65536),
        "llama.embedding_length": u32(HIDDEN), "llama.feed_forward_length": u32(INTERMEDIATE),
        "llama.attention.head_count": u32(HEADS), "llama.attention.head_count_kv": u32(KV_HEADS),
        "llama.attention.layer_norm_rms_epsilon": f32(1e-5), "llama.rope.freq_base": f32(1e5),
        "llama.rope.dimension_count": u32(HEAD_DIM), "llama.vocab_size": u32(VOCAB),
        "tokenizer.ggml.model": text("gpt2"), "tokenizer.ggml.pre": text("smollm"),
        "tokenizer.ggml.tokens": (ARRAY, strings(tokens)), "tokenizer.ggml.token_type": (ARRAY, kinds),
        "tokenizer.ggml.merges": (ARRAY, strings(["\u0120 t"])),
        "tokenizer.ggml.bos_token_id": u32(1), "tokenizer.ggml.eos_token_id": u32(2),
    }


def encode(kind, rows, cols, rng):
    """Random values within +-0.035, in the layout of `kind`."""
    n = rows * cols
    if kind == F32:
        return np.ones(n, "<f4").tobytes()
    if kind == BF16:
        values = ((rng.random(n, "f4") - 0.5) * 0.07).astype("<f4")
        return (values.view("<u4") >> 16).astype("<u2").tobytes()
    if kind == Q4_1:
        blocks = np.zeros(n // 32, [("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)])
        blocks["d"], blocks["m"] = 0.07 / 15, -0.035
        blocks["q"] = rng.integers(0, 256, (n // 32, 16), "u1")
        return blocks.tobytes()
    blocks = np.zeros(n // 32, [("d", "<f2"), ("q", "i1", 32)])
    blocks["d"] = 0.035 / 127
    blocks["q"] = rng.integers(-127, 128, (n // 32, 32), "i1")
    return blocks.tobytes()


def tensors(quantised):
    matrix = Q4_1 if quantised else BF16
    yield "token_embd.weight", VOCAB, HIDDEN, Q8_0 if quantised else BF16
    for layer in range(LAYERS):
        p = f"blk.{layer}."
        yield p + "attn_norm.weight", 1, HIDDEN, F32
        yield p + "attn_q.weight", HEADS * HEAD_DIM, HIDDEN, matrix
        yield p + "attn_k.weight", KV_HEADS * HEAD_DIM, HIDDEN, matrix
        yield p + "attn_v.weight", KV_HEADS * HEAD_DIM, HIDDEN, matrix
        yield p + "attn_output.weight", HIDDEN, HEADS * HEAD_DIM, matrix
        yield p + "ffn_norm.weight", 1, HIDDEN, F32
        yield p + "ffn_gate.weight", INTERMEDIATE, HIDDEN, matrix
        yield p + "ffn_up.weight", INTERMEDIATE, HIDDEN, matrix
        yield p + "ffn_down.weight", HIDDEN, INTERMEDIATE, matrix
    yield "output_norm.weight", 1, HIDDEN, F32


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--weights", choices=["bf16", "q4_1"], default="bf16")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    infos, data = [], bytearray()
    for name, rows, cols, kind in tensors(args.weights == "q4_1"):
        data += b"\0" * (-len(data) % ALIGNMENT)
        dims = [cols] if rows == 1 else [cols, rows]
        infos.append(string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
                     + struct.pack("<IQ", kind, len(data)))
        data += encode(kind, rows, cols, rng)
    fields = metadata()
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(fields))
    for key, (kind, value) in fields.items():
        head += string(key) + struct.pack("<I", kind) + value
    head += b"".join(infos)
    with open(args.out, "wb") as file:
        file.write(head + b"\0" * (-len(head) % ALIGNMENT) + data)


if __name__ == "__main__":
    main()
