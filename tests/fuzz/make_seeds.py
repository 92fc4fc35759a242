#!/usr/bin/env python3
"""Writes small valid files of every kind, from which fuzzing starts: make_seeds.py FOLDER [TARGET...]"""

import pathlib
import struct
import sys

from seeds import gguf, models, safetensors, templates, tokenizers
from seeds.files import NEXT, to_bytes


# --- data ---
def jsonl_seeds():
    yield '{"text": "one"}\n{"text": "two", "id": 2}\n\n'
    yield '{"text": "\\u00e9\\ud83d\\ude00\\n"}'
    yield '{"other": [1, 2.5, null, {"text": 1}], "text": "x"}\r\n'
    yield '["text"]\n'
    yield '{"text": 1}\n'


def shard_seeds():
    def shard(width, documents, description=b"fuzz"):
        body = b"LGTOKENS" + struct.pack("<IIQ", 1, width, len(description)) + description
        body += bytes(-len(body) % 8)
        tokens = [t for document in documents for t in document]
        body += b"".join(t.to_bytes(width, "little") for t in tokens)
        body += bytes(-len(body) % 8)
        ends = [0]
        for document in documents:
            ends.append(ends[-1] + len(document))
        return body + struct.pack(f"<{len(ends)}QQQ", *ends, len(documents), len(tokens)) + bytes(16)

    for width in (2, 4):
        yield shard(width, [])
        yield shard(width, [[1, 2, 3], [], [299]])
        yield shard(width, [[5] * 7])
        yield shard(width, [[1]], b"other")


# --- training ---
def recipe_seeds():
    yield 'output = "out"\n[data]\npaths = ["a", "b"]\nweights = [1, 2.5]\n[train]\nsteps = 10\nlr = 1e-3\n'
    yield '[model]\nhidden_size = 128\nhybrid = "full=middle:2 sparse=sink-window"\nrope_theta = 5e5\n'
    yield 'train.length = "16K"\ntrain.tokens = 1_000_000\ntrain.schedule = "constant"\n'
    yield '[train]\nepochs = 0.5\nrecompute = false\nseed = 18446744073709551615\nwarmup = 0.1\n'
    yield 'data = {paths = "x", eval_fraction = 0.1, packing = "isolated", max_document_tokens = [1024]}\n'
    yield '[trian]\nlr = 1\n'
    yield 'output = 1979-05-27T07:32:00Z\n'
    yield '[[train]]\nlr = inf\n'
    yield "output = '''x\ny'''\n[train]\nlr = nan\nsteps = 0x7fffffffffffffff\n"


def checkpoint_seeds():
    names = [("model.embed_tokens.weight", [4, 16])]
    layer = "model.layers.0."
    names += [(layer + "input_layernorm.weight", [16])]
    state = {"format": 1, "step": 3, "epoch": 0, "sequence": 7, "tokens": 448,
             "rng": {"seed": 5, "shuffle_stream": 0}, "data_hash": "ab", "backend": "cpu",
             "dtype": "f32", "parameters": [{"name": n, "shape": s} for n, s in names]}
    recipe = "[train]\nlr = 0.5\n"
    yield to_bytes(state) + to_bytes(NEXT + recipe)
    yield to_bytes(state | {"step": -1, "seed": 2**64 - 1}) + to_bytes(NEXT + recipe)
    yield to_bytes(state | {"step": 1.5, "tokens": 1e300}) + to_bytes(NEXT)
    yield to_bytes(state) + to_bytes(NEXT + recipe + NEXT + "short")
    yield to_bytes(state) + to_bytes(NEXT + recipe + NEXT + NEXT + "00 12 master\n00\n")
    yield to_bytes("[]" + NEXT)


def hybrid_seeds():
    yield "full=middle:12 sparse=local:32,sink:1"
    yield "full=top:1/3 sparse=sink-window"
    yield "full=bottom:0.5 sparse=strided"
    yield "full=interleaved:10 sparse=local:16,sink:1,stride:64,offset:heads"
    yield "full=10-21,3 sparse=local:15,sink:1,block:16,stride:4,offset:3"
    yield "full=middle:0 sparse=local:1"


SEEDS = {"safetensors": safetensors.safetensors_seeds, "safetensors_index": safetensors.index_seeds,
         "gguf": gguf.gguf_seeds, "gguf_parts": models.parts_seeds, "model_directory": models.directory_seeds,
         "hf_config": safetensors.config_seeds, "tokenizer_json": tokenizers.tokenizer_json_seeds,
         "tokenizer_directory": tokenizers.directory_seeds, "tokenizer_text": tokenizers.text_seeds,
         "sentencepiece": tokenizers.sentencepiece_seeds, "chat_template": templates.template_seeds,
         "jsonl": jsonl_seeds, "token_shard": shard_seeds, "recipe": recipe_seeds,
         "checkpoint": checkpoint_seeds, "hybrid_spec": hybrid_seeds}


def main():
    root = pathlib.Path(sys.argv[1])
    for name in sys.argv[2:] or SEEDS:
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for i, seed in enumerate(SEEDS[name]()):
            (folder / f"seed-{i:02}").write_bytes(to_bytes(seed))


if __name__ == "__main__":
    main()
