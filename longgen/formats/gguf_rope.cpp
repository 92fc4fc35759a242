// The rotation's settings in GGUF metadata.
#include <charconv>
#include <cmath>

#include "longgen/base/error.h"
#include "longgen/formats/family.h"
#include "longgen/formats/gguf_architecture.h"

namespace longgen::formats {
namespace {

using model::RopeConfig;
using model::RopeKind;

// Llama 3 and its finetunes all have these (config.json's rope_scaling); the factor is in the file.
constexpr double kLlama3Low = 1, kLlama3High = 4;
constexpr int64_t kLlama3Original = 8192;

// The factor by which Llama 3's rule divides a frequency.
double llama3_divisor(double frequency, double factor) {
  const double wavelength = 2 * 3.14159265358979323846 / frequency;
  const auto old = static_cast<double>(kLlama3Original);
  if (wavelength < old / kLlama3High) return 1;
  if (wavelength > old / kLlama3Low) return factor;
  const double smooth = (old / wavelength - kLlama3Low) / (kLlama3High - kLlama3Low);
  return 1 / ((1 - smooth) / factor + smooth);
}

// rope_freqs.weight divides each frequency. Files say no more, so the rule is recognised by its
// numbers: the largest is the factor, and every other must follow from it.
RopeConfig read_frequency_factors(const GgufFile& file, const GgufTensor& tensor, RopeConfig rope,
                                  int64_t rotary_dim) {
  const auto refuse = [&](const std::string& problem) {
    fail("{}: tensor rope_freqs.weight {}; use the model's Hugging Face directory",
         file.path().string(), problem);
  };
  if (tensor.shape != std::vector<int64_t>{rotary_dim / 2}) {
    refuse(fmt::format("is {} where [{}] is expected", tensor.shape_string(), rotary_dim / 2));
  }
  std::vector<float> divisors(static_cast<size_t>(rotary_dim / 2));
  file.read_rows(tensor, 0, 1, divisors.data());
  rope.kind = RopeKind::kLlama3;
  rope.factor = shortest_decimal(divisors.back());  // of the longest wave
  if (!(rope.factor >= 1 && rope.factor <= 1e6)) refuse("holds an absurd factor");
  rope.low_freq_factor = kLlama3Low;
  rope.high_freq_factor = kLlama3High;
  rope.original_max_position_embeddings = kLlama3Original;
  for (size_t i = 0; i < divisors.size(); ++i) {
    const double frequency =
        std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
    const double expected = llama3_divisor(frequency, rope.factor);
    // The converter computes in f32; the rule's middle part is steep in the frequency.
    if (!(std::abs(divisors[i] - expected) <= 1e-4 * expected)) {
      refuse(fmt::format("has frequency factors that are not Llama 3's (number {} is {}, not {})",
                         i, divisors[i], expected));
    }
  }
  return rope;
}

void refuse_unread_keys(const GgufFile& file, const std::string& prefix) {
  for (const char* name : {"rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor",
                           "rope.scaling.yarn_log_multiplier"}) {
    if (file.has(prefix + name)) {
      fail("{}: metadata key {}{} is not supported; use the model's Hugging Face directory",
           file.path().string(), prefix, name);
    }
  }
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"}) {
    if (file.find(name) != nullptr) {
      fail(
          "{}: tensor {}: \"longrope\" scaling is not supported: it changes all frequencies where "
          "the text passes the original length, and keys in a cache cannot follow",
          file.path().string(), name);
    }
  }
}

RopeConfig read_yarn(const GgufFile& file, const std::string& prefix, RopeConfig rope,
                     int64_t max_position_embeddings) {
  const auto number = [&](const char* name, double otherwise, double min) {
    return shortest_decimal(file.number_or(prefix + name, otherwise, min, 1e6));
  };
  rope.kind = RopeKind::kYarn;
  rope.original_max_position_embeddings = file.integer_or(
      prefix + "rope.scaling.original_context_length", max_position_embeddings, 1, kMaxDimension);
  rope.beta_fast = number("rope.scaling.yarn_beta_fast", 32, 1e-3);
  rope.beta_slow = number("rope.scaling.yarn_beta_slow", 1, 1e-3);
  if (number("rope.scaling.attn_factor", 1, 0) != 1) {
    fail(
        "{}: metadata key {}rope.scaling.attn_factor other than 1 is not supported; use the "
        "model's Hugging Face directory",
        file.path().string(), prefix);
  }
  return rope;
}

}  // namespace

double shortest_decimal(double value) {
  const std::string text = fmt::format("{}", static_cast<float>(value));
  double result = value;
  std::from_chars(text.data(), text.data() + text.size(), result);
  return result;
}

RopeConfig read_gguf_rope(const GgufFile& file, const std::string& prefix,
                          const model::ModelConfig& model) {
  RopeConfig rope;
  rope.theta = shortest_decimal(file.number_or(prefix + "rope.freq_base", 10000, 2, 1e15));
  refuse_unread_keys(file, prefix);
  const std::string type = file.string_or(prefix + "rope.scaling.type", "none");
  // Files from before scaling.type had a single linear factor.
  const double old_linear = file.number_or(prefix + "rope.scale_linear", 1, 1, 1e6);
  const GgufTensor* divisors = file.find("rope_freqs.weight");
  if (type == "none" && old_linear == 1) {
    return divisors == nullptr ? rope
                               : read_frequency_factors(file, *divisors, rope, model.rotary_dim);
  }
  if (divisors != nullptr) {
    fail("{}: tensor rope_freqs.weight and metadata key {}rope.scaling.type \"{}\" at once",
         file.path().string(), prefix, type);
  }
  rope.factor =
      shortest_decimal(file.number_or(prefix + "rope.scaling.factor", old_linear, 1, 1e6));
  if (type == "none" || type == "linear") {
    rope.kind = RopeKind::kLinear;
    return rope;
  }
  if (type != "yarn") {
    fail("{}: metadata key {}rope.scaling.type \"{}\" is not supported; none, linear and yarn are",
         file.path().string(), prefix, type);
  }
  return read_yarn(file, prefix, rope, model.max_position_embeddings);
}

}  // namespace longgen::formats
