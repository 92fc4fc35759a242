"""safetensors files, indices of sharded models, config.json."""

import struct

from seeds.files import safetensors, tensor


def safetensors_seeds():
    yield safetensors({})
    yield safetensors({"x": tensor("F32", [2, 2], 0, 16)}, struct.pack("<4f", 1, 2, 3, 4))
    yield safetensors({"__metadata__": {"format": "pt"}, "a": tensor("BF16", [3], 0, 6),
                       "b": tensor("F16", [1, 1, 1], 6, 8)}, b"\x80\x3f" * 4)
    for name, bits in (("F64", 64), ("I64", 64), ("I32", 32), ("U8", 8), ("BOOL", 8),
                       ("F8_E4M3", 8), ("F4", 4), ("ODD", 8)):
        yield safetensors({"t": tensor(name, [4], 0, 4 * bits // 8)}, bytes(4 * bits // 8))
    yield safetensors({"none": tensor("F32", [0, 7], 0, 0), "one": tensor("F32", [], 0, 4)}, bytes(4))


def index_seeds():
    good = {"metadata": {"total_size": 8}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    yield good
    yield {"weight_map": {"x": "a.safetensors", "y": "a.safetensors"}}
    yield {"weight_map": {"x": "../a.safetensors"}}
    yield {"weight_map": {"x": "c.safetensors"}}
    yield {"weight_map": {}}


CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32,
          "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
          "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048,
          "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
          "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": [2, 3], "torch_dtype": "bfloat16"}


def config_seeds():
    yield CONFIG
    yield CONFIG | {"rope_scaling": {"type": "linear", "factor": 4.0}, "attention_bias": True}
    yield CONFIG | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0,
                                        "original_max_position_embeddings": 512,
                                        "beta_fast": 32, "beta_slow": 1, "attention_factor": 1.1}}
    yield CONFIG | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                     "high_freq_factor": 4.0,
                                     "original_max_position_embeddings": 1024}}
    full = {"block_size": 64, "sink_blocks": 0, "local_blocks": None, "stride": 0, "offsets": [0]}
    sparse = {"block_size": 64, "sink_blocks": 1, "local_blocks": 15, "stride": 4, "offsets": [0]}
    yield CONFIG | {"model_type": "longgen", "layer_types": ["sliding_attention", "full_attention"],
                    "longgen": {"format_version": 1, "base_model_type": "llama",
                                "patterns": [full, sparse], "layer_patterns": [1, 0]}}
    yield CONFIG | {"sliding_window": 128, "use_sliding_window": False, "head_dim": 16}
    yield CONFIG | {"quantization_config": {"bits": 4}}
    wide = CONFIG | {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    yield wide | {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None}
    yield wide | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False}
    yield wide | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 32}
    yield wide | {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"],
                  "original_max_position_embeddings": 2048, "partial_rotary_factor": 1.0}
    yield wide | {"model_type": "gpt_neox", "rotary_pct": 0.25, "use_parallel_residual": True,
                  "hidden_act": "gelu", "layer_norm_eps": 1e-5}
    yield {"model_type": "opt", "vocab_size": 32, "hidden_size": 32, "ffn_dim": 64,
           "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128,
           "do_layer_norm_before": True, "word_embed_proj_dim": 32, "activation_function": "relu"}
