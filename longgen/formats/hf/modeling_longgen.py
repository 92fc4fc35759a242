# SPDX-License-Identifier: Apache-2.0
"""A hybrid sparse/full attention model written by longgen, for Transformers (`trust_remote_code=True`).

The weights and every module are those of the base family; only which keys a query may see differs from layer to
layer. `config.longgen` says it: `patterns` is a list of block patterns, `layer_patterns` the pattern of each layer.
With blocks of absolute positions (block = position // block_size), query block i sees key block j <= i iff

    i - j < local_blocks   or   j < sink_blocks   or   (stride > 0 and (j + 1 + offset[kv_head]) % stride == 0)

and inside the diagonal block only keys at or before the query. `local_blocks: null` is full attention.

The masks are dense and the cache keeps every key: this file is for checking and for other tools, not for speed.
"""

import torch
from torch import nn
from transformers.cache_utils import DynamicCache
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaForCausalLM, LlamaModel


class LonggenConfig(LlamaConfig):
    model_type = "longgen"

    def __init__(self, longgen=None, **kwargs):
        super().__init__(**kwargs)
        self.longgen = longgen
        if longgen is None:  # Transformers builds a bare configuration when it looks for default values
            return
        if longgen.get("format_version") != 1:
            raise ValueError(f"longgen.format_version {longgen.get('format_version')!r} is unknown; this file reads 1")
        if longgen.get("base_model_type") != "llama":
            raise ValueError(f"longgen.base_model_type {longgen.get('base_model_type')!r} is not supported (llama is)")
        patterns, layers = longgen["patterns"], longgen["layer_patterns"]
        if len(layers) != self.num_hidden_layers or not all(0 <= p < len(patterns) for p in layers):
            raise ValueError(f"longgen.layer_patterns must name one of {len(patterns)} patterns for each layer")
        for pattern in patterns:
            if len(pattern["offsets"]) not in (1, self.num_key_value_heads):
                raise ValueError("longgen.patterns: offsets must hold one number, or one for each key/value head")


def visible(pattern, query_positions, key_positions, num_heads):
    """Boolean [batch, heads or 1, queries, keys], from positions [batch, queries] and [batch, keys]."""
    query, key = query_positions[:, None, :, None], key_positions[:, None, None, :]
    i, j = query // pattern["block_size"], key // pattern["block_size"]
    seen = j < pattern["sink_blocks"]
    if pattern["local_blocks"] is None:
        seen = seen | (j <= i)
    else:
        seen = seen | (i - j < pattern["local_blocks"])
    if pattern["stride"] > 0:
        offsets = torch.tensor(pattern["offsets"], device=key.device)
        if len(offsets) > 1:  # from key/value heads to query heads
            offsets = offsets.repeat_interleave(num_heads // len(offsets))
        seen = seen | ((j + 1 + offsets[None, :, None, None]) % pattern["stride"] == 0)
    return seen & (key <= query)


class LonggenDecoderLayer(LlamaDecoderLayer):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.pattern = config.longgen["layer_patterns"][layer_idx]

    def forward(self, hidden_states, attention_mask=None, pattern_masks=None, **kwargs):
        return super().forward(hidden_states, attention_mask=pattern_masks[self.pattern], **kwargs)


class LonggenModel(LlamaModel):
    config_class = LonggenConfig
    _no_split_modules = ["LonggenDecoderLayer"]
    # Only attention that takes a dense mask: anything else would silently drop the pattern.
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = False
    _can_compile_fullgraph = False

    def __init__(self, config):
        super().__init__(config)
        self.layers = nn.ModuleList([LonggenDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.post_init()

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        **kwargs,
    ):
        if use_cache is None:
            use_cache = self.config.use_cache
        if use_cache and past_key_values is None:
            # Without the configuration, or Transformers would keep only a sliding window of the sparse layers' keys.
            past_key_values = DynamicCache()
        if past_key_values is not None and not isinstance(past_key_values, DynamicCache):
            raise ValueError(f"longgen models need a DynamicCache, not {type(past_key_values).__name__}")

        inputs = input_ids if input_ids is not None else inputs_embeds
        batch, queries = inputs.shape[:2]
        keys = queries + (past_key_values.get_seq_length() if past_key_values is not None else 0)
        if attention_mask is None:
            attention_mask = torch.ones(batch, keys, dtype=torch.long, device=inputs.device)
        if attention_mask.shape != (batch, keys):
            raise ValueError(f"attention_mask must be [{batch}, {keys}], is {list(attention_mask.shape)}")

        # Positions count the tokens that are not padding, in the cache and in this call.
        real = attention_mask.bool()
        key_positions = (real.long().cumsum(-1) - 1).clamp(min=0)
        query_positions = key_positions[:, -queries:]
        if position_ids is not None and ((position_ids != query_positions) & real[:, -queries:]).any():
            raise ValueError("position_ids must count the tokens from 0: patterns are of absolute positions")

        dtype = self.embed_tokens.weight.dtype
        pattern_masks = []
        for pattern in self.config.longgen["patterns"]:
            mask = visible(pattern, query_positions, key_positions, self.config.num_attention_heads)
            mask = mask & real[:, None, None, :]
            mask = mask | ~mask.any(-1, keepdim=True)  # a query that is padding: anything but NaN
            scores = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
            pattern_masks.append(scores.masked_fill(~mask, torch.finfo(dtype).min))

        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=query_positions,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pattern_masks=pattern_masks,
            **kwargs,
        )


class LonggenForCausalLM(LlamaForCausalLM):
    config_class = LonggenConfig
    _no_split_modules = ["LonggenDecoderLayer"]
    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = False
    _can_compile_fullgraph = False

    def __init__(self, config):
        super(LlamaForCausalLM, self).__init__(config)
        self.model = LonggenModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls):
        return False  # generate() leaves the cache to LonggenModel.forward, which says why
