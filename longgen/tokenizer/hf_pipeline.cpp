#include "longgen/tokenizer/hf_pipeline.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "longgen/base/error.h"

namespace longgen::tokenizer {
namespace {

using formats::describe_json;
using formats::Json;
using formats::JsonObject;
using PreKind = PreTokenizerStep::Kind;
using NormKind = NormalizerStep::Kind;

template <typename T>
struct Name {
  const char* name;
  T value;
};

constexpr Name<NormKind> kPlainNormalizers[] = {{"NFC", NormKind::kNfc},
                                                {"NFD", NormKind::kNfd},
                                                {"NFKC", NormKind::kNfkc},
                                                {"NFKD", NormKind::kNfkd},
                                                {"Lowercase", NormKind::kLowercase},
                                                {"StripAccents", NormKind::kStripAccents}};

constexpr Name<SplitBehavior> kBehaviors[] = {
    {"Isolated", SplitBehavior::kIsolated},
    {"Removed", SplitBehavior::kRemoved},
    {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
    {"MergedWithNext", SplitBehavior::kMergedWithNext},
    {"Contiguous", SplitBehavior::kContiguous}};

std::string type_of(const JsonObject& step) { return step.string("type"); }

// The steps of a Sequence, sequences in it laid open, or the one step that stands alone.
void collect_steps(const JsonObject& step, const char* list, std::vector<JsonObject>& steps) {
  if (type_of(step) != "Sequence") {
    steps.push_back(step);
    return;
  }
  const Json& entries = step.at(list);
  if (!entries.is_array()) step.fail_at(list, "is " + describe_json(entries) + ", not an array");
  for (size_t i = 0; i < entries.size(); ++i) {
    collect_steps(JsonObject(entries[i], fmt::format("{}.{}[{}]", step.where(), list, i)), list,
                  steps);
  }
}

// None when `key` is absent or null.
std::vector<JsonObject> steps_of(const JsonObject& parent, const char* key, const char* list) {
  std::vector<JsonObject> steps;
  if (parent.has(key)) collect_steps(parent.object(key), list, steps);
  return steps;
}

[[noreturn]] void fail_unknown(const JsonObject& step, const char* known) {
  fail("{}: type '{}' is not supported here (supported: {})", step.where(), type_of(step), known);
}

// {"Regex": ...} or {"String": ...}
std::string read_pattern(const JsonObject& step) {
  const JsonObject pattern = step.object("pattern");
  if (pattern.has("Regex")) return pattern.string("Regex");
  return Regex::quoted(pattern.string("String"));
}

NormalizerStep read_normalizer(const JsonObject& step) {
  const std::string type = type_of(step);
  for (const auto& plain : kPlainNormalizers) {
    if (type == plain.name) return {.kind = plain.value};
  }
  if (type == "Strip") {
    return {.kind = NormKind::kStrip,
            .left = step.boolean_or("strip_left", true),
            .right = step.boolean_or("strip_right", true)};
  }
  if (type == "Prepend") return {.kind = NormKind::kPrepend, .content = step.string("prepend")};
  if (type == "Replace") {
    return {.kind = NormKind::kReplace,
            .pattern = read_pattern(step),
            .content = step.string("content")};
  }
  fail_unknown(step,
               "NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Prepend, Replace, Sequence");
}

SplitBehavior read_behavior(const JsonObject& step, const char* otherwise) {
  const std::string name =
      otherwise == nullptr ? step.string("behavior") : step.string_or("behavior", otherwise);
  for (const auto& known : kBehaviors) {
    if (name == known.name) return known.value;
  }
  step.fail_at("behavior", "is '" + name + "', which is not supported");
}

PreTokenizerStep split_step(std::string pattern, SplitBehavior behavior, bool inverted = false) {
  return {.kind = PreKind::kSplit,
          .text = std::move(pattern),
          .behavior = behavior,
          .inverted = inverted};
}

// "always", "first" or "never". Files older than the key have add_prefix_space alone.
std::string prepend_scheme(const JsonObject& metaspace) {
  const bool adds = metaspace.boolean_or("add_prefix_space", true);
  std::string scheme = adds ? metaspace.string_or("prepend_scheme", "always") : "never";
  if (scheme != "always" && scheme != "first" && scheme != "never")
    metaspace.fail_at("prepend_scheme", "is '" + scheme + "', which is not supported");
  return scheme;
}

void read_metaspace(const JsonObject& step, std::vector<PreTokenizerStep>& steps) {
  const std::string mark = step.string("replacement");
  const std::string scheme = prepend_scheme(step);
  steps.push_back({.kind = PreKind::kReplaceSpaces, .text = mark});
  if (scheme != "never")
    steps.push_back({.kind = PreKind::kPrefix, .text = mark, .only_first = scheme == "first"});
  if (step.boolean_or("split", true))
    steps.push_back(split_step(Regex::quoted(mark), SplitBehavior::kMergedWithNext));
}

void read_byte_level(const JsonObject& step, std::vector<PreTokenizerStep>& steps) {
  if (step.boolean_or("add_prefix_space", true))
    steps.push_back({.kind = PreKind::kPrefix, .text = " "});
  if (step.boolean_or("use_regex", true))
    steps.push_back(split_step(kGpt2Pattern, SplitBehavior::kIsolated));
  steps.push_back({.kind = PreKind::kByteAlphabet});
}

void read_pre_tokenizer(const JsonObject& step, std::vector<PreTokenizerStep>& steps) {
  const std::string type = type_of(step);
  if (type == "ByteLevel") {
    read_byte_level(step, steps);
  } else if (type == "Digits") {
    const bool each = step.boolean_or("individual_digits", false);
    steps.push_back(
        split_step(kDigitPattern, each ? SplitBehavior::kIsolated : SplitBehavior::kContiguous));
  } else if (type == "Split") {
    steps.push_back(split_step(read_pattern(step), read_behavior(step, nullptr),
                               step.boolean_or("invert", false)));
  } else if (type == "Punctuation") {
    steps.push_back(split_step(kPunctuationPattern, read_behavior(step, "Isolated")));
  } else if (type == "Metaspace") {
    read_metaspace(step, steps);
  } else if (type == "Whitespace") {
    steps.push_back(split_step(R"(\w+|[^\w\s]+)", SplitBehavior::kRemoved, true));
  } else if (type == "WhitespaceSplit") {
    steps.push_back(split_step(R"(\s)", SplitBehavior::kRemoved));
  } else {
    fail_unknown(step,
                 "ByteLevel, Digits, Split, Punctuation, Metaspace, Whitespace, WhitespaceSplit, "
                 "Sequence");
  }
}

// What follows the byte alphabet may only split it.
void check_order(const JsonObject& root, const std::vector<PreTokenizerStep>& steps) {
  bool alphabet = false;
  for (const PreTokenizerStep& step : steps) {
    require(!alphabet || step.kind == PreKind::kSplit,
            "{}: pre_tokenizer: a step behind ByteLevel changes the text, which is not supported",
            root.where());
    alphabet |= step.kind == PreKind::kByteAlphabet;
  }
}

// A template of a special token, if any, and then the text.
std::string read_template(const JsonObject& step) {
  const Json& single = step.at("single");
  if (!single.is_array() || single.empty())
    step.fail_at("single", "is " + describe_json(single) + ", not a list of pieces");
  std::string leading;
  bool text = false;
  for (size_t i = 0; i < single.size(); ++i) {
    const JsonObject piece(single[i], fmt::format("{}.single[{}]", step.where(), i));
    if (piece.has("Sequence")) {
      if (text) piece.fail_at("Sequence", "stands twice, which is not supported");
      text = true;
      continue;
    }
    const std::string token = piece.object("SpecialToken").string("id");
    if (text || !leading.empty()) {
      piece.fail_at("SpecialToken", "'" + token +
                                        "' is not the one token before the text, which is not "
                                        "supported; take it out of the file");
    }
    leading = token;
  }
  return leading;
}

void read_post_processor(const JsonObject& root, HfPipeline& pipeline) {
  for (const JsonObject& step : steps_of(root, "post_processor", "processors")) {
    if (type_of(step) == "ByteLevel") continue;  // places of tokens only
    if (type_of(step) != "TemplateProcessing")
      fail_unknown(step, "TemplateProcessing, ByteLevel, Sequence");
    const std::string leading = read_template(step);
    if (!leading.empty() && !pipeline.leading_token.empty())
      step.fail_at("single", "is a second template, which is not supported");
    if (!leading.empty()) pipeline.leading_token = leading;
  }
}

// Strip takes spaces from the start of the fused text.
size_t read_strip(const JsonObject& step, bool fused) {
  if (step.string("content") != " ")
    step.fail_at("content", "is not a space, which is not supported");
  if (step.integer_or("stop", 0, 0, 1 << 20) != 0)
    step.fail_at("stop", "is not 0, which is not supported");
  if (!fused) fail("{}: Strip before Fuse is not supported", step.where());
  return static_cast<size_t>(step.integer_or("start", 0, 0, 1 << 20));
}

void read_decoder(const JsonObject& root, HfPipeline& pipeline) {
  if (!pipeline.byte_level && !root.has("decoder"))
    root.fail_at("decoder", "is absent, which is supported only with a pre_tokenizer of ByteLevel");
  bool fused = false;
  for (const JsonObject& step : steps_of(root, "decoder", "decoders")) {
    const std::string type = type_of(step);
    const bool byte_level = type == "ByteLevel";
    if (byte_level != pipeline.byte_level && (byte_level || type != "Fuse")) {
      fail("{}: type '{}' does not go with a pre_tokenizer {} ByteLevel", step.where(), type,
           pipeline.byte_level ? "of" : "without");
    }
    if (byte_level) continue;
    if (fused && type != "Strip" && type != "Fuse")
      fail("{}: type '{}' behind Fuse is not supported", step.where(), type);
    if (type == "Replace") {
      pipeline.replacements.push_back({.kind = NormKind::kReplace,
                                       .pattern = read_pattern(step),
                                       .content = step.string("content")});
    } else if (type == "ByteFallback") {
      pipeline.decodes_bytes = true;
    } else if (type == "Fuse") {
      fused = true;
    } else if (type == "Strip") {
      pipeline.dropped_at_start = read_strip(step, fused);
    } else if (type == "Metaspace") {
      pipeline.replacements.push_back({.kind = NormKind::kReplace,
                                       .pattern = Regex::quoted(step.string("replacement")),
                                       .content = " "});
      // All of the first token's.
      if (prepend_scheme(step) != "never") pipeline.dropped_at_start = std::string::npos;
    } else {
      fail_unknown(step, "ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace, Sequence");
    }
  }
}

// Whether encoding puts something before a text behind an added token too.
bool prefixes_every_piece(const HfPipeline& pipeline) {
  return std::any_of(pipeline.normalizer.begin(), pipeline.normalizer.end(),
                     [](const NormalizerStep& step) { return step.kind == NormKind::kPrepend; }) ||
         std::any_of(pipeline.pre.begin(), pipeline.pre.end(), [](const PreTokenizerStep& step) {
           return step.kind == PreKind::kPrefix && !step.only_first;
         });
}

}  // namespace

HfPipeline parse_pipeline(const JsonObject& root) {
  HfPipeline pipeline;
  for (const JsonObject& step : steps_of(root, "normalizer", "normalizers")) {
    pipeline.normalizer.push_back(read_normalizer(step));
  }
  for (const JsonObject& step : steps_of(root, "pre_tokenizer", "pretokenizers")) {
    read_pre_tokenizer(step, pipeline.pre);
  }
  check_order(root, pipeline.pre);
  pipeline.byte_level =
      std::any_of(pipeline.pre.begin(), pipeline.pre.end(),
                  [](const PreTokenizerStep& step) { return step.kind == PreKind::kByteAlphabet; });
  read_post_processor(root, pipeline);
  read_decoder(root, pipeline);
  if (pipeline.dropped_at_start > 0 && prefixes_every_piece(pipeline))
    pipeline.dropped_behind_added = 1;
  return pipeline;
}

}  // namespace longgen::tokenizer
