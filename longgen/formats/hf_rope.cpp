#include "longgen/formats/hf_rope.h"

#include <cmath>
#include <optional>

#include "longgen/base/error.h"
#include "longgen/formats/family.h"

namespace longgen::formats {
namespace {

using model::RopeConfig;
using model::RopeKind;

constexpr double kDefaultTheta = 10000, kMinTheta = 2, kMaxTheta = 1e15;
constexpr double kMaxFactor = 1e6;

RopeKind read_kind(const JsonObject& object) {
  const std::string key = object.has("rope_type") ? "rope_type" : "type";
  const std::string name = object.string_or(key, "default");
  if (name == "default") return RopeKind::kDefault;
  if (name == "linear") return RopeKind::kLinear;
  if (name == "llama3") return RopeKind::kLlama3;
  if (name == "yarn") return RopeKind::kYarn;
  std::string_view reason;
  if (name == "dynamic") {
    reason = " (it changes all frequencies as the text grows, and keys in a cache cannot follow)";
  }
  if (name == "longrope" || name == "su") {
    reason =
        " (it changes all frequencies where the text passes the original length, and keys in a "
        "cache cannot follow)";
  }
  object.fail_at(key, fmt::format("\"{}\" is not supported{}; default, linear, llama3 and yarn are",
                                  name, reason));
}

void read_llama3(const JsonObject& object, RopeConfig& rope) {
  rope.low_freq_factor = object.number("low_freq_factor", 1e-6, kMaxFactor);
  rope.high_freq_factor = object.number("high_freq_factor", 1e-6, kMaxFactor);
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    object.fail_at("high_freq_factor", "must be greater than low_freq_factor");
  }
  rope.original_max_position_embeddings =
      object.integer("original_max_position_embeddings", 1, kMaxDimension);
}

// 0.1 mscale ln(factor) + 1, as YaRN's DeepSeek variant scales it.
double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

void read_yarn(const JsonObject& object, int64_t max_position_embeddings, RopeConfig& rope) {
  rope.original_max_position_embeddings = object.integer_or(
      "original_max_position_embeddings", max_position_embeddings, 1, kMaxDimension);
  rope.beta_fast = object.number_or("beta_fast", 32, 1e-3, kMaxFactor);
  rope.beta_slow = object.number_or("beta_slow", 1, 1e-3, kMaxFactor);
  if (object.has("attention_factor")) {
    rope.attention_factor = object.number("attention_factor", 1e-3, 1e3);
  } else if (object.has("mscale") && object.has("mscale_all_dim")) {
    const double mscale = object.number("mscale", 0, 1e3);
    const double all = object.number("mscale_all_dim", 0, 1e3);
    if (mscale != 0 && all != 0) {
      rope.attention_factor = yarn_mscale(rope.factor, mscale) / yarn_mscale(rope.factor, all);
    }
  }
  if (!object.boolean_or("truncate", true)) {
    object.fail_at("truncate", "false is not supported");
  }
}

RopeConfig read_scaling(const JsonObject& object, double theta, int64_t max_position_embeddings) {
  if (object.has("full_attention") || object.has("sliding_attention")) {
    fail("{}: rotary settings that differ by layer type are not supported", object.where());
  }
  RopeConfig rope;
  rope.theta = object.number_or("rope_theta", theta, kMinTheta, kMaxTheta);
  rope.kind = read_kind(object);
  if (rope.kind == RopeKind::kDefault) return rope;
  rope.factor = object.number("factor", 1, kMaxFactor);
  if (rope.kind == RopeKind::kLlama3) read_llama3(object, rope);
  if (rope.kind == RopeKind::kYarn) read_yarn(object, max_position_embeddings, rope);
  return rope;
}

// Wherever it stands: beside the other keys under one of the family's names, or in rope_parameters
// or rope_scaling. All that are there must agree.
double read_partial(const JsonObject& config, const HfRopeKeys& keys) {
  std::optional<double> found;
  const auto read = [&](const JsonObject& object, std::string_view key) {
    if (key.empty() || !object.has(key)) return;
    const double value = object.number(key, 0, 1);
    if (keys.partial[0].empty() && value != 1) {
      object.fail_at(key, "other than 1 is not supported for this family");
    }
    if (found && *found != value) {
      object.fail_at(key,
                     fmt::format("is {}, but another key says {}; make them equal", value, *found));
    }
    found = value;
  };
  constexpr std::string_view kName = "partial_rotary_factor";
  if (keys.partial[0].empty()) read(config, kName);
  for (const std::string_view key : keys.partial) read(config, key);
  for (const char* place : {"rope_parameters", "rope_scaling"}) {
    if (config.has(place)) read(config.object(place), kName);
  }
  return found.value_or(keys.partial_otherwise);
}

const char* kind_name(RopeKind kind) {
  switch (kind) {
    case RopeKind::kLinear:
      return "linear";
    case RopeKind::kLlama3:
      return "llama3";
    case RopeKind::kYarn:
      return "yarn";
    case RopeKind::kDefault:
      break;
  }
  return "default";
}

}  // namespace

HfRope read_hf_rope(const JsonObject& config, int64_t max_position_embeddings,
                    const HfRopeKeys& keys) {
  HfRope result{.partial_rotary_factor = read_partial(config, keys)};
  // GPT-NeoX's own name for the base, or the one that everybody else has.
  const std::string_view key = config.has(keys.theta) ? keys.theta : "rope_theta";
  const double theta = config.number_or(key, kDefaultTheta, kMinTheta, kMaxTheta);
  if (config.has("rope_theta") && config.number("rope_theta", kMinTheta, kMaxTheta) != theta) {
    config.fail_at("rope_theta", fmt::format("and {} disagree; make them equal", keys.theta));
  }
  const auto read = [&](const char* place) {
    return read_scaling(config.object(place), theta, max_position_embeddings);
  };
  if (!config.has("rope_parameters")) {
    if (config.has("rope_scaling")) {
      result.rope = read("rope_scaling");
    } else {
      result.rope.theta = theta;
    }
    return result;
  }
  result.rope = read("rope_parameters");
  if (config.has(key) && theta != result.rope.theta) {
    config.fail_at(key, fmt::format("is {}, but rope_parameters has {}; make them equal", theta,
                                    result.rope.theta));
  }
  if (config.has("rope_scaling")) {
    RopeConfig old = read("rope_scaling");
    if (!config.has(key) && !config.object("rope_scaling").has("rope_theta")) {
      old.theta = result.rope.theta;
    }
    if (!(old == result.rope)) {
      config.fail_at("rope_scaling", "and rope_parameters disagree; remove one");
    }
  }
  return result;
}

void write_hf_rope(const RopeConfig& rope, OrderedJson& out, const HfRopeKeys& keys,
                   double partial_rotary_factor) {
  OrderedJson scaling;
  scaling["rope_type"] = kind_name(rope.kind);
  if (rope.kind != RopeKind::kDefault) scaling["factor"] = rope.factor;
  if (rope.kind == RopeKind::kLlama3) {
    scaling["low_freq_factor"] = rope.low_freq_factor;
    scaling["high_freq_factor"] = rope.high_freq_factor;
  }
  if (rope.kind == RopeKind::kYarn) {
    scaling["beta_fast"] = rope.beta_fast;
    scaling["beta_slow"] = rope.beta_slow;
    if (rope.attention_factor) scaling["attention_factor"] = *rope.attention_factor;
  }
  if (rope.kind == RopeKind::kLlama3 || rope.kind == RopeKind::kYarn) {
    scaling["original_max_position_embeddings"] = rope.original_max_position_embeddings;
  }
  const std::string_view partial = keys.partial[0];
  out[std::string(keys.theta)] = rope.theta;
  if (!partial.empty()) out[std::string(partial)] = partial_rotary_factor;
  if (rope.kind != RopeKind::kDefault) out["rope_scaling"] = scaling;
  OrderedJson parameters;
  parameters["rope_theta"] = rope.theta;
  if (!partial.empty()) parameters["partial_rotary_factor"] = partial_rotary_factor;
  parameters.update(scaling);
  out["rope_parameters"] = parameters;
}

int64_t rotary_channels(int64_t head_dim, double partial_rotary_factor) {
  return static_cast<int64_t>(static_cast<double>(head_dim) * partial_rotary_factor);
}

double partial_rotary_factor(const model::ModelConfig& model) {
  const double factor = static_cast<double>(model.rotary_dim) / static_cast<double>(model.head_dim);
  // The product may round to just below the whole number.
  return rotary_channels(model.head_dim, factor) == model.rotary_dim ? factor
                                                                     : std::nextafter(factor, 2.0);
}

}  // namespace longgen::formats
