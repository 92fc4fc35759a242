#!/usr/bin/env python3
"""Writes small valid files of every kind, from which fuzzing starts: make_seeds.py FOLDER."""

import json
import pathlib
import re
import struct
import sys

NEXT = "\n=====\n"


def to_bytes(value):
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def safetensors(header, data=b""):
    text = to_bytes(header)
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


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


# --- GGUF ---
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


# --- tokenizers ---
def added(index, content, special=True, **more):
    return {"id": index, "content": content, "special": special, "lstrip": False, "rstrip": False,
            "single_word": False, "normalized": False} | more


def bpe_json(**changes):
    tokens = ["H", "e", "l", "o", "He", "ll", "Hell", "\u0120", "w"]
    base = {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [added(9, "<|end|>"), added(10, "  ", special=False)],
            "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
            "post_processor": None, "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)},
                      "merges": ["H e", ["l", "l"], "He ll"], "ignore_merges": False}}
    return base | changes


def spm_json(**changes):
    base = bpe_json(added_tokens=[added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
                    normalizer={"type": "Sequence", "normalizers": [
                        {"type": "Prepend", "prepend": "\u2581"},
                        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
                    pre_tokenizer=None,
                    decoder={"type": "Sequence", "decoders": [
                        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                        {"type": "ByteFallback"}, {"type": "Fuse"},
                        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
                    post_processor={"type": "TemplateProcessing",
                                    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                               {"Sequence": {"id": "A", "type_id": 0}}],
                                    "pair": [],
                                    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}})
    base["model"] = {"type": "BPE", "byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>",
                     "vocab": {t: i for i, t in enumerate(SPM)}, "merges": ["H e", "l l", "He ll"]}
    return base | changes


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def tokenizer_json_seeds():
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    split = {"type": "Split", "behavior": "Isolated", "invert": False,
             "pattern": {"Regex": "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)|\\s+"}}
    yield bpe_json()
    yield to_bytes(bpe_json()) + NEXT.encode() + "Hello <|end|>  w\u00e9".encode()
    yield bpe_json(normalizer={"type": "NFC"}, pre_tokenizer=sequence(split, byte_level))
    yield bpe_json(pre_tokenizer=sequence({"type": "Digits", "individual_digits": True},
                                          byte_level | {"use_regex": True}))
    yield bpe_json(added_tokens=[added(9, "<s>", lstrip=True, rstrip=True, single_word=True)])
    whole = bpe_json()
    whole["model"]["vocab"] = {c: i for i, c in enumerate(byte_alphabet() + ["He", "ll", "Hell"])}
    whole["added_tokens"] = []
    yield whole
    bytes_alone = bpe_json(normalizer=None, pre_tokenizer=byte_level)
    bytes_alone["model"] |= {"vocab": {c: i for i, c in enumerate(byte_alphabet())}, "merges": []}
    bytes_alone["added_tokens"] = [added(256, "<s>")]
    yield bytes_alone
    for behavior in ("Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        yield bpe_json(pre_tokenizer=sequence(split | {"behavior": behavior, "pattern": {"String": "l"}, "invert": True},
                                              {"type": "Punctuation", "behavior": behavior}, byte_level))
    yield bpe_json(normalizer={"type": "Sequence", "normalizers": [
        {"type": "NFKC"}, {"type": "NFD"}, {"type": "NFKD"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": True},
        {"type": "Replace", "pattern": {"Regex": "l+"}, "content": "L"}, {"type": "Prepend", "prepend": "x"}]})
    yield bpe_json(post_processor={"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
        "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [8], "tokens": ["<|end|>"]}}})
    yield spm_json()
    yield spm_json(normalizer=None, pre_tokenizer={"type": "Metaspace", "replacement": "\u2581",
                                                   "prepend_scheme": "first", "split": False})


def directory_seeds():
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}, "unk_token": "<unk>",
              "add_bos_token": True, "chat_template": "{{ messages }}",
              "added_tokens_decoder": {"0": {"content": "<unk>", "special": True}}}
    special = {"eos_token": "</s>", "pad_token": "</s>"}

    def files(*parts):
        return NEXT.encode().join(to_bytes(part) for part in parts)

    yield files(spm_json(), config, special)
    yield files(bpe_json(), {"eos_token": "<|end|>"})
    yield files(bpe_json(), "", "", "{% for m in messages %}{{ m.content }}{% endfor %}")
    yield files(spm_json(), {"chat_template": [{"name": "default", "template": "x"}]}, special)
    yield files("", config, "", "", sentencepiece(SPM, SPM_TYPES))
    yield files("", config | {"added_tokens_decoder": {"12": {"content": "<new>"}}}, special, "",
                sentencepiece(SPM, SPM_TYPES))


def text_seeds():
    yield "Hello world"
    yield "Hello <s> 12  \n\n\t<|end|> </s>  x"
    yield "\u4e2d\u6587 \U0001f600 \u00e9 e\u0301 \u2581"
    yield b"\xff\xfe\xe2\x82 \xed\xa0\x80 \xf0\x9f"
    yield "hellhell   1212 's 're"


def some(expressions, count=3):
    """A few of them a template."""
    expressions = list(expressions)
    for i in range(0, len(expressions), count):
        yield "".join(expressions[i:i + count])


def expressions_of(template):
    """Every expression of a template alone, behind what it sets."""
    sets = "".join(re.findall(r"{% set .*? %}", template))
    for expression in re.findall(r"{{.*?}}(?=[{]|$)", re.sub(r"{% set .*? %}", "", template)):
        yield sets + expression


def template_seeds():
    yield ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + (message.content or '')"
           " + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
    yield ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
           "{% set system = messages[0].content %}{% else %}{% set loop_messages = messages %}{% endif %}"
           "{% for m in loop_messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
           "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content | trim }}{% endfor %}{{ eos_token }}")
    yield ("{%- macro show(x, n=2) -%}{{ x | upper }}{{ n * 2 }}{%- endmacro -%}"
           "{%- set ns = namespace(last=-1, found=false) -%}{%- for m in messages[::-1] -%}"
           "{%- if m.role == 'user' and not ns.found -%}{%- set ns.found = true -%}{%- set ns.last = loop.revindex -%}"
           "{%- endif -%}{%- endfor -%}{{ show('a') }}{{ ns.last }}{# note #}")
    yield ("{{ messages | tojson(indent=2) }}{{ messages | map(attribute='role') | join(', ') }}"
           "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
           "{{ [3, 1] | sort | first }}{{ {'a': 1}.items() | list }}{{ 'x' ~ 1.5 }}{{ 'b' is string }}")
    yield "{% for i in range(9) %}{% if i is odd %}{% continue %}{% endif %}{% break %}{% endfor %}{{ strftime_now('%Y-%m-%d') }}"
    yield "{{ 'a,b'.split(',')[-1].strip().replace('b', 'c').startswith('c') }}{{ 7 // 2 ** 2 % 3 - -1 }}{{ 1 if x is defined else none }}"
    yield "{% generation %}x{% endgeneration %}{{ messages[0].content" + NEXT + '[{"content": [1, {"a": "b"}]}]'
    yield "{% for k, v in messages[0] | items recursive %}{{ loop(v) }}{% else %}{% endfor %}" + NEXT + '[{"a": {"b": {}}}]'
    # Every filter, test and method there is, on texts, numbers and lists. A few a seed: the first
    # error ends a template.
    texts = ("trim", "upper", "lower", "capitalize", "title", "string", "safe", "escape", "length", "first", "last",
             "list", "reverse", "int", "float", "tojson", "indent", "indent(2, true)", "replace('a', 'b', 1)",
             "default('d')", "default('d', true)", "attr('x')", "format(1)", "join('-')", "unique | list")
    yield from some("{{ ' aBc d' | %s }}{{ '%%s\\n<b>' | %s }}" % (f, f) for f in texts)
    numbers = ("abs", "int", "float", "round", "round(1, 'floor')", "round(-1, 'ceil')", "string", "tojson")
    yield from some("{{ -7.25 | %s }}{{ '12' | int | %s }}{{ '0x1F' | int(0, 16) }}" % (f, f) for f in numbers)
    lists = ("sort", "sort(reverse=true)", "sort(case_sensitive=true) | first", "unique | list", "min", "max", "sum",
             "sum(start=1)", "first", "last", "reverse | list", "join(', ')", "map('abs') | list", "length", "tojson",
             "select('odd') | list", "reject('gt', 1) | list", "map('string') | join", "list", "count")
    yield from some("{{ [3, 1, 2, 1] | %s }}" % f for f in lists)
    yield from expressions_of("{% set rows = [{'n': 'b', 'v': {'w': 2}}, {'n': 'a', 'v': {'w': 1}}] %}{{ rows | sort(attribute='v.w') }}"
           "{{ rows | map(attribute='n', default='x') | list }}{{ rows | map(attribute='v.w') | sum }}"
           "{{ rows | selectattr('n') | list }}{{ rows | rejectattr('v.w', 'eq', 1) | list }}"
           "{{ rows | sum('v.w') }}{{ rows | join('|', 'n') }}{{ rows | min(attribute='n') }}{{ rows | max('v.w') }}"
           "{{ rows | unique(attribute='n') | list }}{{ {'b': 1, 'A': 2} | dictsort }}"
           "{{ {'b': 1, 'A': 2} | dictsort(true, 'value', reverse=true) }}{{ {'a': 1} | items | list }}"
           "{{ rows | tojson(true, '  ', [',', ':'], true) }}")
    methods = ("strip()", "lstrip(' a')", "rstrip()", "upper()", "lower()", "title()", "capitalize()", "swapcase()",
               "casefold()", "center(9, '*')", "ljust(9)", "rjust(9, '0')", "zfill(9)", "expandtabs(4)", "split()",
               "split('b', 1)", "rsplit(None, 1)", "splitlines(true)", "partition('b')", "rpartition('b')", "count('a')",
               "find('b', 1)", "rfind('b')", "index('b')", "rindex('b')", "startswith(('a', ' '))", "endswith('d', 0, 3)",
               "removeprefix(' ')", "removesuffix('d')", "replace('a', 'x', 1)", "join(['1', '2'])", "isalnum()",
               "isalpha()", "isascii()", "isdecimal()", "isdigit()", "isidentifier()", "islower()", "isnumeric()",
               "isprintable()", "isspace()", "istitle()", "isupper()", "encode()", "format(1)", "format_map({})")
    yield from some("{{ ' ab\\tcd' .%s }}" % m for m in methods)
    yield from expressions_of("{{ '{} {1} {0!r:>5} {a.b[c]:^+08.2f} {{}}'.format(1, 'x', a={'b': {'c': 2.5}}) }}"
           "{{ '%s %5d %-6.2f %x %o %e %g %c %% %(a)s' | format(1, 2, 3.5, 4, 5, 6.5, 7.5, 'c') }}"
           "{{ '%(a)s %(b)05d' % {'a': 1, 'b': 2} }}{{ '{:,} {:_} {:b} {:o} {:X} {:e} {:g} {:%} {:n}'.format(1234567, 1, 5, 8, 255, 1.5, 2.5, .5, 3) }}"
           "{{ '{:<4}|{:>4}|{:^4}|{:=+5}'.format('a', 'b', 'c', 4) }}{{ '{0[1]} {0.x}'.format([1, 2]) }}")
    yield from expressions_of("{% set l = [2, 1] %}{{ l.append(3) }}{{ l.insert(0, 9) }}{{ l.pop() }}{{ l.extend([4]) }}{{ l.remove(9) }}"
           "{{ l.index(1) }}{{ l.count(1) }}{{ l.sort() }}{{ l.reverse() }}{{ l.copy() }}{{ l.clear() }}"
           "{% set d = {'a': 1} %}{{ d.get('b', 2) }}{{ d.keys() | list }}{{ d.values() | list }}{{ d.update({'c': 3}) }}"
           "{{ d.setdefault('e', 4) }}{{ d.pop('a') }}{{ d.popitem() }}{{ d.copy() }}{{ d.clear() }}")
    tests = ("defined", "undefined", "none", "boolean", "true", "false", "integer", "float", "number", "string",
             "mapping", "iterable", "sequence", "callable", "sameas(x)", "lower", "upper", "eq(1)", "ne 1", "in [1]")
    yield from some("{%% set x = 'a' %%}{{ x is %s }}{{ 1 is not %s }}" % (t, t) for t in tests)
    yield from expressions_of("{{ 4 is divisibleby 2 }}{{ 3 is odd }}{{ 3 is even }}{{ 1 is lt 2 }}{{ 1 is le 2 }}{{ 1 is gt 2 }}{{ 1 is ge 2 }}"
           "{{ 1 + 2 * 3 - 4 / 5 // 1 % 2 ** 2 }}{{ [1] + [2] }}{{ 'a' * 3 }}{{ [1, 2] * 2 }}{{ (1, 2) < (1, 3) }}"
           "{{ 'a' ~ none ~ true }}{{ 1 == 1.0 }}{{ {'a': 1} == {'a': 1} }}{{ 'b' in 'abc' }}{{ 2 not in [1] }}"
           "{{ not (1 and 0 or 2) }}{{ 1.5e3 }}{{ 9223372036854775807 - 1 }}{{ -5 // 3 }}{{ -5 % 3 }}{{ 2 ** -1 }}"
           "{{ 'abc'[::-1] }}{{ [1, 2, 3][-2:] }}{{ 'abc'[5:1:-2] }}{{ ('a', 1)[0] }}{{ 1 < 2 < 3 }}")
    yield "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.current }}{{ c.reset() }}"
    yield "{% set j = joiner(', ') %}{{ j() }}{{ j() }}{{ dict(a=1, b=2) }}{{ range(5, 0, -2) | list }}{{ namespace(a=1).a }}"
    yield ("{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{% raw %}{{ x }}{% endraw %}"
           "{% filter upper | replace('A', 'b') %}a{% endfilter %}{% set t %}x{{ 1 }}{% endset %}{{ t }}"
           "{% call(x) m() %}{{ x }}{% endcall %}{% macro m() %}{{ caller(1) }}{{ varargs }}{{ kwargs }}{% endmacro %}"
           "{% if 0 %}{% elif 1 %}{% else %}{% endif %}")
    yield ("{% for a, (b, c) in [(1, (2, 3))] if a %}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}"
           "{{ loop.nextitem }}{{ loop.cycle(1, 2) }}{{ loop.changed(a) }}{{ loop.depth }}{% endfor %}")


# --- SentencePiece (protocol buffers) ---
def varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(index, value):
    if isinstance(value, int):
        return varint(index << 3) + varint(value)
    if isinstance(value, float):
        return varint(index << 3 | 5) + struct.pack("<f", value)
    data = to_bytes(value)
    return varint(index << 3 | 2) + varint(len(data)) + data


def sentencepiece(pieces, types, trainer=b"", normalizer=b""):
    out = b""
    for i, (piece, kind) in enumerate(zip(pieces, types)):
        out += field(1, field(1, piece) + field(2, -float(i)) + (field(3, kind) if kind != 1 else b""))
    out += field(2, field(3, 2) + field(35, 1) + field(40, 0) + field(41, 1) + field(42, 2) + trainer)
    return out + field(3, field(1, "identity") + field(3, 1) + field(4, 0) + field(5, 1) + normalizer)


def sentencepiece_seeds():
    yield sentencepiece(SPM, SPM_TYPES)
    yield sentencepiece(SPM, SPM_TYPES, normalizer=field(3, 0))
    yield sentencepiece(SPM + ["<0x0A>", "user"], SPM_TYPES + [6, 4])
    all_bytes = [f"<0x{b:02X}>" for b in range(256)]
    yield sentencepiece(SPM[:5] + all_bytes, SPM_TYPES[:5] + [6] * 256)
    yield sentencepiece(SPM, SPM_TYPES, trainer=field(24, 1))


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


SEEDS = {"safetensors": safetensors_seeds, "safetensors_index": index_seeds, "gguf": gguf_seeds,
         "hf_config": config_seeds, "tokenizer_json": tokenizer_json_seeds,
         "tokenizer_directory": directory_seeds, "tokenizer_text": text_seeds,
         "sentencepiece": sentencepiece_seeds, "chat_template": template_seeds, "jsonl": jsonl_seeds, "token_shard": shard_seeds,
         "recipe": recipe_seeds, "checkpoint": checkpoint_seeds, "hybrid_spec": hybrid_seeds}


def main():
    root = pathlib.Path(sys.argv[1])
    for name, seeds in SEEDS.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for i, seed in enumerate(seeds()):
            (folder / f"seed-{i:02}").write_bytes(to_bytes(seed))


if __name__ == "__main__":
    main()
