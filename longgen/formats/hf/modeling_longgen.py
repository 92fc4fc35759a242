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
from transformers.cache_utils import DynamicCache
from transformers.models.gpt_neox import configuration_gpt_neox, modeling_gpt_neox
from transformers.models.llama import configuration_llama, modeling_llama
from transformers.models.mistral import configuration_mistral, modeling_mistral
from transformers.models.opt import configuration_opt, modeling_opt
from transformers.models.phi3 import configuration_phi3, modeling_phi3
from transformers.models.qwen2 import configuration_qwen2, modeling_qwen2
from transformers.models.qwen3 import configuration_qwen3, modeling_qwen3


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


class LonggenConfigMixin:
    """A base family's configuration with `longgen`: the patterns and which layer has which."""

    model_type = "longgen"

    def __init__(self, longgen=None, **kwargs):
        super().__init__(**kwargs)
        self.longgen = longgen
        if longgen is None:  # Transformers builds a bare configuration when it looks for default values
            return
        if longgen.get("format_version") != 1:
            raise ValueError(f"longgen.format_version {longgen.get('format_version')!r} is unknown; this file reads 1")
        if longgen.get("base_model_type") != self.base_model_type:
            raise ValueError(
                f"longgen.base_model_type {longgen.get('base_model_type')!r}: {type(self).__name__} is for "
                f"{self.base_model_type!r}; auto_map must name the class of the family"
            )
        if getattr(self, "sliding_window", None) is not None:
            raise ValueError("sliding_window must be null: the patterns say what a layer sees")
        patterns, layers = longgen["patterns"], longgen["layer_patterns"]
        if len(layers) != self.num_hidden_layers or not all(0 <= p < len(patterns) for p in layers):
            raise ValueError(f"longgen.layer_patterns must name one of {len(patterns)} patterns for each layer")
        kv_heads = getattr(self, "num_key_value_heads", None) or self.num_attention_heads
        for pattern in patterns:
            if len(pattern["offsets"]) not in (1, kv_heads):
                raise ValueError("longgen.patterns: offsets must hold one number, or one for each key/value head")


class LonggenLayerMixin:
    """A layer that takes the mask of its own pattern instead of the family's."""

    def forward(self, hidden_states, attention_mask=None, pattern_masks=None, **kwargs):
        return super().forward(hidden_states, attention_mask=pattern_masks[self.pattern], **kwargs)


class DenseMasksOnly:
    """Only attention that takes a dense mask: anything else would silently drop the pattern."""

    _supports_flash_attn = False
    _supports_flex_attn = False
    _supports_attention_backend = False
    _can_compile_fullgraph = False


class LonggenBodyMixin(DenseMasksOnly):
    """The module that runs the layers."""

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

        dtype = self.embedding().weight.dtype
        pattern_masks = []
        for pattern in self.config.longgen["patterns"]:
            mask = visible(pattern, query_positions, key_positions, self.config.num_attention_heads)
            mask = mask & real[:, None, None, :]
            mask = mask | ~mask.any(-1, keepdim=True)  # a query that is padding: anything but NaN
            scores = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
            pattern_masks.append(scores.masked_fill(~mask, torch.finfo(dtype).min))

        return super().forward(
            input_ids=input_ids,
            attention_mask=self.family_mask(attention_mask),
            position_ids=query_positions,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pattern_masks=pattern_masks,
            **kwargs,
        )

    def embedding(self):
        return self.embed_in if hasattr(self, "embed_in") else self.embed_tokens

    def family_mask(self, attention_mask):
        return attention_mask


class LonggenTypedBodyMixin(LonggenBodyMixin):
    """Families that make a mask for each of their layer types: they are given them ready, for no layer to use."""

    def family_mask(self, attention_mask):
        return dict.fromkeys(("full_attention", "sliding_attention"))


class LonggenForCausalLMMixin(DenseMasksOnly):
    """The whole model: the family's own, its layers and the module that runs them made the classes above."""

    def __init__(self, config):
        super().__init__(config)
        body = self
        for name in self.body_path.split("."):
            body = getattr(body, name)
        body.__class__ = self.body_class
        for layer, pattern in zip(body.layers, config.longgen["layer_patterns"]):
            layer.__class__ = self.layer_class
            layer.pattern = pattern

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        # Transformers 5 calls GPT-NeoX's head lm_head, and renames it in its own classes only.
        if "lm_head.weight" in (getattr(cls, "_tied_weights_keys", None) or ()) and cls.body_path == "gpt_neox":
            kwargs.setdefault("key_mapping", {r"^embed_out\.": "lm_head."})
        return super().from_pretrained(*args, **kwargs)

    @classmethod
    def _supports_default_dynamic_cache(cls):
        return False  # generate() leaves the cache to LonggenBodyMixin.forward, which says why


def hybrid_classes(name, base_model_type, configuration, modeling, body="Model", layer="DecoderLayer", path="model",
                   body_mixin=LonggenBodyMixin):
    """Configuration and model of one family: Longgen<name>Config and Longgen<name>ForCausalLM."""
    family = name or "Llama"
    layer_class = type(
        f"Longgen{name}{layer}", (LonggenLayerMixin, getattr(modeling, family + layer)), {"__module__": __name__}
    )
    body_class = type(
        f"Longgen{name}{body}", (body_mixin, getattr(modeling, family + body)), {"__module__": __name__}
    )
    config_class = type(
        f"Longgen{name}Config",
        (LonggenConfigMixin, getattr(configuration, f"{family}Config")),
        {"__module__": __name__, "model_type": "longgen", "base_model_type": base_model_type},
    )
    causal_class = type(
        f"Longgen{name}ForCausalLM",
        (LonggenForCausalLMMixin, getattr(modeling, f"{family}ForCausalLM")),
        {
            "__module__": __name__,
            "config_class": config_class,
            "layer_class": layer_class,
            "body_class": body_class,
            "body_path": path,
            "_no_split_modules": [layer_class.__name__],
        },
    )
    body_class.config_class = config_class
    return config_class, causal_class


LonggenConfig, LonggenForCausalLM = hybrid_classes("", "llama", configuration_llama, modeling_llama)
LonggenMistralConfig, LonggenMistralForCausalLM = hybrid_classes(
    "Mistral", "mistral", configuration_mistral, modeling_mistral
)
LonggenQwen2Config, LonggenQwen2ForCausalLM = hybrid_classes(
    "Qwen2", "qwen2", configuration_qwen2, modeling_qwen2, body_mixin=LonggenTypedBodyMixin
)
LonggenQwen3Config, LonggenQwen3ForCausalLM = hybrid_classes(
    "Qwen3", "qwen3", configuration_qwen3, modeling_qwen3, body_mixin=LonggenTypedBodyMixin
)
LonggenPhi3Config, LonggenPhi3ForCausalLM = hybrid_classes("Phi3", "phi3", configuration_phi3, modeling_phi3)
LonggenGPTNeoXConfig, LonggenGPTNeoXForCausalLM = hybrid_classes(
    "GPTNeoX", "gpt_neox", configuration_gpt_neox, modeling_gpt_neox, layer="Layer", path="gpt_neox"
)
LonggenOPTConfig, LonggenOPTForCausalLM = hybrid_classes(
    "OPT", "opt", configuration_opt, modeling_opt, body="Decoder", path="model.decoder"
)
