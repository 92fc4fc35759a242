#include "longgen/tokenizer/gguf_rules.h"

#include <fmt/ranges.h>

#include <initializer_list>
#include <map>

#include "longgen/base/error.h"

namespace longgen::tokenizer {
namespace {

using Step = PreTokenizerStep;
using Kind = PreTokenizerStep::Kind;

// Of Meta's llama3/tokenizer.py, and of the tokenizer.json of Qwen2, Qwen3.5, Mistral Nemo, GPT-4o
// and DeepSeek's models.
const char* const kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kQwen35 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kDeepSeek3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kDeepSeek3Kanji = R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)";
const char* const kDeepSeekKanji = R"([\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+)";
// The cased letters of Unicode 12.
const char* const kDeepSeekLetters =
    R"(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+)";
const char* const kDeepSeekMarks =
    R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)";

Step split(const char* pattern, SplitBehavior behavior = SplitBehavior::kIsolated) {
  return {.kind = Kind::kSplit, .text = pattern, .behavior = behavior};
}
Step bytes() { return {.kind = Kind::kByteAlphabet}; }

std::vector<Step> splits(std::initializer_list<const char*> patterns) {
  std::vector<Step> steps;
  for (const char* pattern : patterns) steps.push_back(split(pattern));
  steps.push_back(bytes());
  return steps;
}

// Falcon's digits are looked for in the byte alphabet, where six bytes of longer characters stand
// as digits (superscripts and fractions).
std::vector<Step> falcon() {
  return {split(kPunctuationPattern, SplitBehavior::kContiguous), split(kGpt2Pattern), bytes(),
          split(kDigitPattern, SplitBehavior::kContiguous), split("[0-9][0-9][0-9]")};
}

std::map<std::string, NamedRules> known_rules() {
  const std::vector<NormalizerStep> nfc = {{.kind = NormalizerStep::Kind::kNfc}};
  const NamedRules gpt2{.pre = splits({kGpt2Pattern})};
  const NamedRules neox{.normalizer = nfc, .pre = gpt2.pre};
  const NamedRules digits{.pre = splits({kDigitPattern, kGpt2Pattern})};
  const NamedRules command_r{.normalizer = nfc, .pre = digits.pre};
  const NamedRules tiktoken{.pre = splits({kLlama3})};
  const NamedRules llama3{.pre = tiktoken.pre, .ignore_merges = true, .adds_bos = true};
  const NamedRules qwen2{.normalizer = nfc, .pre = splits({kQwen2})};
  const NamedRules tekken{.pre = splits({kTekken}), .ignore_merges = true, .adds_bos = true};
  const NamedRules deepseek_llm{.pre = splits({"[\r\n]", kDeepSeekLetters, kDeepSeekMarks,
                                               R"(\s+$)", kDeepSeekKanji, kDigitPattern})};
  const NamedRules deepseek_coder{
      .pre = splits({"[\r\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kDeepSeekKanji, kDigitPattern})};
  const NamedRules deepseek3{.pre = splits({R"(\p{N}{1,3})", kDeepSeek3Kanji, kDeepSeek3})};
  return {{"gpt-2", gpt2},
          {"gpt2", gpt2},
          {"phi-2", gpt2},
          {"jais", gpt2},
          {"gpt-neox", neox},
          {"mpt", neox},
          {"olmo", neox},
          {"smollm", digits},
          {"starcoder", digits},
          {"refact", digits},
          {"codeshell", digits},
          {"command-r", command_r},
          {"falcon", {.pre = falcon()}},
          {"llama-bpe", llama3},
          {"llama3", llama3},
          {"llama-v3", llama3},
          {"falcon3", llama3},
          {"dbrx", tiktoken},
          {"smaug-bpe", tiktoken},
          {"qwen2", qwen2},
          {"megrez", qwen2},
          {"deepseek-r1-qwen", {.pre = qwen2.pre}},
          {"stablelm2", {.pre = qwen2.pre}},
          {"qwen35", {.normalizer = nfc, .pre = splits({kQwen35})}},
          {"tekken", tekken},
          {"gpt-4o", {.pre = splits({kGpt4o})}},
          {"deepseek-llm", deepseek_llm},
          {"deepseek-coder", deepseek_coder},
          {"deepseek-v3", deepseek3}};
}

}  // namespace

NamedRules named_rules(const std::string& name, const std::string& file) {
  const auto known = known_rules();
  if (const auto found = known.find(name); found != known.end()) return found->second;
  std::vector<std::string> names;
  names.reserve(known.size());
  for (const auto& [key, rules] : known) names.push_back(key);
  fail(
      "{}: tokenizer.ggml.pre is '{}', a pre-tokenizer that is not known here (known: {}); use the "
      "model's Hugging Face directory, whose tokenizer.json holds the rule itself",
      file, name, fmt::join(names, ", "));
}

}  // namespace longgen::tokenizer
