# SPDX-License-Identifier: Apache-2.0
"""Small tokenizers of every family's shape, for make_tokenizer_families.py: the pipeline of the family's own
tokenizer.json over a vocabulary of a few hundred tokens."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = [r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"]
LLAMA3_RULES = [CONTRACTIONS, r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{N}{1,3}", *REST]
QWEN2_RULES = [CONTRACTIONS, r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{N}", *REST]
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = [rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"]
SLASH = [r" ?[^\s\p{L}\p{N}]+[\r\n/]*", *REST[1:]]
TEKKEN_RULES = [*CASED, r"\p{N}", *SLASH]
GPT4O_RULES = [CASED[0] + CONTRACTIONS + "?", CASED[1] + CONTRACTIONS + "?", r"\p{N}{1,3}", *SLASH]
QWEN35_RULES = [CONTRACTIONS, r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+", r"\p{N}", r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", *REST[1:]]
DEEPSEEK3_RULES = [
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r" ?[\p{P}\p{S}]+[\r\n]*",
    *REST[1:],
]
# Ends of ranges that NFC would change are written as escapes.
DEEPSEEK_LETTERS = (
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556"
    "\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15"
    "\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113"
    "\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184"
    "\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+"
)
DEEPSEEK_MARKS = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
DEEPSEEK_KANJI = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
DEEPSEEK3_KANJI = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"

MARK = "\u2581"
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def byte_level(prefix=False, regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def splits(*patterns):
    return pre_tokenizers.Sequence([*[split(p) for p in patterns], byte_level()])


# What GGUF files name, as the models' own files have it.
PRE_TOKENIZERS = {
    "gpt-2": byte_level(regex=True),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(regex=True)]),
    "llama-bpe": splits("|".join(LLAMA3_RULES)),
    "qwen2": splits("|".join(QWEN2_RULES)),
    "qwen35": splits("|".join(QWEN35_RULES)),
    "tekken": splits("|".join(TEKKEN_RULES)),
    "gpt-4o": splits("|".join(GPT4O_RULES)),
    "falcon": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation("contiguous"),
            byte_level(regex=True),
            pre_tokenizers.Digits(individual_digits=False),
            split("[0-9][0-9][0-9]"),
        ]
    ),
    "deepseek-llm": pre_tokenizers.Sequence(
        [
            *[split(p) for p in ["[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_MARKS, r"\s+$", DEEPSEEK_KANJI]],
            pre_tokenizers.Digits(individual_digits=True),
            byte_level(),
        ]
    ),
    "deepseek-coder": pre_tokenizers.Sequence(
        [
            *[split(p) for p in ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_KANJI]],
            pre_tokenizers.Digits(individual_digits=True),
            byte_level(),
        ]
    ),
    "deepseek-v3": splits(r"\p{N}{1,3}", DEEPSEEK3_KANJI, "|".join(DEEPSEEK3_RULES)),
}


def special(text, **flags):
    return AddedToken(text, special=True, **{"normalized": False, **flags})


def plain(text, **flags):
    return AddedToken(text, special=False, **flags)


def bos_template(tokenizer, bos):
    return processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])


def trained_bytes(corpus, pre, size=700, normalizer=None, added=(), bos=None, **model):
    """Byte-level BPE; the added tokens have the ids behind the model's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    for key, value in model.items():
        setattr(tokenizer.model, key, value)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(list(added))
    if bos is not None:
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), bos_template(tokenizer, bos)])
    return tokenizer


def trained_characters(corpus, normalizer, pre, decoder, added=(), bos="<s>", size=500, missing=(), fuse=True, training_pre=None):
    """BPE over characters with byte fallback, the ids laid out as Llama-2's."""
    trainee = Tokenizer(models.BPE())
    if normalizer is not None:
        trainee.normalizer = normalizer
    trainee.pre_tokenizer = training_pre or pre_tokenizers.Metaspace(prepend_scheme="never")
    trainee.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size, limit_alphabet=80, show_progress=False))
    import json

    state = json.loads(trainee.to_str())["model"]
    vocab = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>", *[b for b in BYTES if b not in missing]])}
    for token in sorted(state["vocab"], key=state["vocab"].get):
        vocab.setdefault(token, len(vocab))
    merges = [tuple(m) for m in state["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=fuse, byte_fallback=True))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre is not None:
        tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoder
    tokenizer.add_tokens(list(added))
    if bos is not None:
        tokenizer.post_processor = bos_template(tokenizer, bos)
    return tokenizer


def fallback_decoder(*more):
    return decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), *more])


def prepend_and_replace():
    return normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])


def families(corpus):
    """name → tokenizer. Those of `corpus` are trained on its texts."""
    controls = [special("<unk>"), special("<s>"), special("</s>")]
    strip = decoders.Strip(content=" ", left=1, right=0)
    nfc = normalizers.NFC()
    chat = [special("<|im_start|>"), special("<|im_end|>")]
    pre = PRE_TOKENIZERS
    yield "llama-3", trained_bytes(
        corpus, pre["llama-bpe"], added=[special("<|begin_of_text|>"), special("<|end_of_text|>"), *chat],
        bos="<|begin_of_text|>", ignore_merges=True)
    yield "qwen2", trained_bytes(corpus, pre["qwen2"], normalizer=nfc, added=[special("<|endoftext|>"), *chat])
    yield "gpt-neox", trained_bytes(
        corpus, pre["gpt-2"], normalizer=nfc,
        added=[special("<|endoftext|>"), special("<|padding|>"), *[plain(" " * n) for n in range(24, 1, -1)]])
    yield "smollm", trained_bytes(corpus, pre["smollm"], added=[special("<|endoftext|>"), *chat])
    yield "falcon", trained_bytes(corpus, pre["falcon"], added=[special("<|endoftext|>"), special(">>TITLE<<")])
    yield "deepseek-v3", trained_bytes(
        corpus, pre["deepseek-v3"], added=[special("<\uff5cbegin\u2581of\u2581sentence\uff5c>"), plain("<think>", normalized=False)],
        bos="<\uff5cbegin\u2581of\u2581sentence\uff5c>")
    yield "gpt-2-prefix", trained_bytes(corpus, byte_level(prefix=True, regex=True), added=[special("<|endoftext|>")])
    yield "llama-2", trained_characters(corpus, prepend_and_replace(), None, fallback_decoder(strip), added=controls)
    yield "llama-2-normalized", trained_characters(
        corpus, prepend_and_replace(), None, fallback_decoder(strip),
        added=[special(t, normalized=True) for t in ["<unk>", "<s>", "</s>"]])
    yield "phi-3", trained_characters(
        corpus, prepend_and_replace(), None, fallback_decoder(strip),
        added=[special("<unk>"), special("<s>"), plain("</s>", rstrip=True, normalized=False),
               *[special(t, rstrip=True) for t in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]]])
    yield "mistral", trained_characters(
        corpus, None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), fallback_decoder(strip), added=controls)
    yield "yi", trained_characters(corpus, normalizers.Replace(" ", MARK), None, fallback_decoder(), added=controls, bos=None)
    metaspace = {"replacement": MARK, "prepend_scheme": "always", "split": True}
    yield "metaspace", trained_characters(
        corpus, None, pre_tokenizers.Metaspace(**metaspace), decoders.Metaspace(**metaspace), added=controls, bos=None)
    yield "few-bytes", trained_characters(
        corpus, normalizers.Replace(" ", MARK), None, fallback_decoder(), added=controls, bos=None, fuse=False,
        missing=[b for b in BYTES if int(b[3:5], 16) % 3 == 0])
    yield "few-bytes-fused", trained_characters(
        corpus, normalizers.Replace(" ", MARK), None, fallback_decoder(), added=controls, bos=None, fuse=True,
        missing=[b for b in BYTES if int(b[3:5], 16) % 3 == 0])
    flags = [
        special("<|l|>", lstrip=True), special("<|r|>", rstrip=True), special("<|lr|>", lstrip=True, rstrip=True),
        plain("word", single_word=True), plain("'s", single_word=True, normalized=False), plain("<|im"), plain("caf\u00e9"),
        plain("ABC"), plain("Abc", normalized=False), plain("  ", rstrip=True, normalized=False), special("<|im_end|>"),
    ]
    yield "added-tokens", trained_bytes(
        corpus, pre["gpt-2"], added=flags, normalizer=normalizers.Sequence([normalizers.NFKD(), normalizers.Lowercase()]))
    zoo = normalizers.Sequence([
        normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.NFKC(),
        normalizers.Replace(Regex(r"\s{2,}|\d+"), "#"), normalizers.Replace("e.", "$1"), normalizers.Strip(right=False),
        normalizers.Prepend("^"), normalizers.Sequence([normalizers.Strip(left=False), normalizers.NFKD()])])
    yield "normalizers", trained_bytes(corpus, byte_level(regex=True), normalizer=zoo, added=[special("<|im_end|>"), plain("  THE  ")])
    yield "splits", trained_bytes(corpus, pre_tokenizers.Sequence([
        split(r"[,;]", "removed"), split(r"\d", "contiguous"), split(r"-+", "merged_with_previous"), split(r"\(", "merged_with_next"),
        split(r"[^'\"]+", "removed", invert=True), split(r"x*", "merged_with_previous"), pre_tokenizers.Split("th", "merged_with_next"),
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("merged_with_previous"), byte_level()]))
    whitespace = Tokenizer(models.BPE(unk_token="?"))
    whitespace.pre_tokenizer = pre_tokenizers.Whitespace()
    whitespace.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=300, limit_alphabet=40, special_tokens=["?"], show_progress=False))
    whitespace.decoder = decoders.Fuse()
    yield "whitespace", whitespace
