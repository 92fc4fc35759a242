#include "longgen/formats/family.h"

#include <array>

#include "longgen/base/error.h"

namespace longgen::formats {
namespace {

// Why some well-known model types cannot be run.
struct Refusal {
  std::string_view model_type, reason;
};
constexpr std::string_view kGemmaReason =
    "its layers see a token-exact sliding window, and it scales and caps what the others do not";
constexpr std::string_view kExpertsReason = "mixtures of experts are not supported";
constexpr std::array<Refusal, 13> kRefusals = {{
    {"gemma2", kGemmaReason},
    {"gemma3", kGemmaReason},
    {"gemma3_text", kGemmaReason},
    {"gpt_oss", "its attention has learned sink logits and a token-exact sliding window"},
    {"cohere2", "its layers see a token-exact sliding window"},
    {"ministral", "its layers see a token-exact sliding window"},
    {"mixtral", kExpertsReason},
    {"qwen2_moe", kExpertsReason},
    {"qwen3_moe", kExpertsReason},
    {"phimoe", kExpertsReason},
    {"deepseek_v3", kExpertsReason},
    {"llama4_text", "its attention is cut into chunks of tokens"},
    {"phi3small", "its block-sparse attention differs from head to head"},
}};

}  // namespace

std::span<const Family> families() {
  static const std::array<Family, 7> table = {kLlamaFamily, kMistralFamily, kQwen2Family,
                                              kQwen3Family, kPhi3Family,    kGptNeoxFamily,
                                              kOptFamily};
  return table;
}

std::string supported_model_types() {
  std::string text;
  for (const Family& family : families()) text += fmt::format("{}, ", family.model_type);
  return text + "longgen";
}

const Family& find_family(std::string_view model_type, std::string_view where) {
  for (const Family& family : families()) {
    if (family.model_type == model_type) return family;
  }
  std::string reason;
  for (const Refusal& refusal : kRefusals) {
    if (refusal.model_type == model_type) reason = fmt::format(" ({})", refusal.reason);
  }
  fail("{}: model_type \"{}\" is not supported{}; supported are {}", where, model_type, reason,
       supported_model_types());
}

}  // namespace longgen::formats
