"""Tokenizers of every kind, and texts for them."""

import struct

from seeds.files import NEXT, to_bytes
from seeds.gguf import SPM, SPM_TYPES, byte_alphabet


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
