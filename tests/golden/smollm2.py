# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct out of its GGUF file, for the scripts beside this one: model, hybrid and tokenizer.

Transformers can read a GGUF itself, but drops the digit split of the tokenizer, so both are built here from the file.
"""

import hashlib
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gguf
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "longgen" / "formats" / "hf"))
from modeling_longgen import LonggenConfig, LonggenForCausalLM  # noqa: E402

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# full=middle:10 sparse=local:8,sink:1: sparse already at 2,048 tokens.
HYBRID = {
    "format_version": 1,
    "base_model_type": "llama",
    "patterns": [
        {"block_size": 64, "sink_blocks": 1, "local_blocks": 8, "stride": 0, "offsets": [0]},
        {"block_size": 64, "sink_blocks": 0, "local_blocks": None, "stride": 0, "offsets": [0]},
    ],
    "layer_patterns": [1 if 10 <= layer < 20 else 0 for layer in range(30)],
}

HF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "blk": "model.layers",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class SmolLM2:
    def __init__(self, path):
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        if digest != SHA256:
            raise SystemExit(f"{path}: sha256 {digest}, expected {SHA256}")
        self.reader = gguf.GGUFReader(path)

    def field(self, name):
        return self.reader.fields[name].contents()

    def config(self):
        return dict(
            vocab_size=self.field("llama.vocab_size"),
            hidden_size=self.field("llama.embedding_length"),
            intermediate_size=self.field("llama.feed_forward_length"),
            num_hidden_layers=self.field("llama.block_count"),
            num_attention_heads=self.field("llama.attention.head_count"),
            num_key_value_heads=self.field("llama.attention.head_count_kv"),
            max_position_embeddings=self.field("llama.context_length"),
            rms_norm_eps=self.field("llama.attention.layer_norm_rms_epsilon"),
            rope_parameters={"rope_type": "default", "rope_theta": self.field("llama.rope.freq_base")},
            tie_word_embeddings=True,
            bos_token_id=self.field("tokenizer.ggml.bos_token_id"),
            eos_token_id=self.field("tokenizer.ggml.eos_token_id"),
        )

    def state_dict(self):
        state = {}
        heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
        for t in self.reader.tensors:
            weight = torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).copy()).float()
            parts = t.name.split(".")
            if parts[-2] in heads:  # rows are stored for interleaved rotation: pairs next to each other
                n, rows = self.field(heads[parts[-2]]), weight.shape[0]
                weight = weight.reshape(n, rows // n // 2, 2, -1).swapaxes(1, 2).reshape(rows, -1)
            state[".".join(HF_NAMES.get(p, p) for p in parts)] = weight
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
        return state

    def model(self, longgen=None):
        """The fp32 Llama, or its hybrid by the given `longgen` object of a config.json."""
        if longgen is None:
            model = LlamaForCausalLM(LlamaConfig(**self.config(), attn_implementation="eager"))
        else:
            model = LonggenForCausalLM(LonggenConfig(**self.config(), longgen=longgen, attn_implementation="eager"))
        model.load_state_dict(self.state_dict(), strict=True)
        return model.eval()

    def tokenizer(self):
        tokens, types = self.field("tokenizer.ggml.tokens"), self.field("tokenizer.ggml.token_type")
        merges = [tuple(m.split(" ")) for m in self.field("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        tokenizer.decoder = decoders.ByteLevel()
        control = [t for t, kind in zip(tokens, types) if kind == gguf.TokenType.CONTROL]
        tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
        assert tokenizer.get_vocab_size() == len(tokens)
        assert tokenizer.encode("a  2").ids == [81, 256, 34]
        return tokenizer


@torch.inference_mode()
def next_token_logprobs(model, ids):
    """F32 [len(ids) - 1]: the log-probability of ids[t + 1] after ids[: t + 1]; whole sequence in one pass."""
    logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1]
    targets = torch.tensor(ids[1:])
    return torch.cat(
        [
            chunk.double().log_softmax(-1).gather(-1, target[:, None])[:, 0].float()
            for chunk, target in zip(logits.split(256), targets.split(256))
        ]
    )


@torch.inference_mode()
def greedy(model, ids, count):
    """`count` tokens by argmax, past any end-of-text token, and the margin between the two best logits at each step."""
    output, margins, past = [], [], None
    tokens = torch.tensor([ids])
    for _ in range(count):
        step = model(tokens, past_key_values=past, use_cache=True, logits_to_keep=1)
        best = step.logits[0, -1].topk(2)
        output.append(best.indices[0].item())
        margins.append((best.values[0] - best.values[1]).item())
        past, tokens = step.past_key_values, best.indices[None, :1]
    return output, margins
