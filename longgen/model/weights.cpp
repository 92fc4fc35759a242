#include "longgen/model/weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "longgen/backend/quantized.h"
#include "longgen/base/checked.h"
#include "longgen/base/error.h"
#include "longgen/base/rng.h"

namespace longgen::model {
namespace {

// Collects the specs of one model in order.
class SpecList {
 public:
  explicit SpecList(const ModelConfig& config) : config_(config) {}

  void matrix(const std::string& name, int64_t out, int64_t in, int shard_axis) {
    specs_.push_back(
        {.name = name + ".weight", .shape = {out, in}, .decay = true, .shard_axis = shard_axis});
  }
  // A matrix with its bias. The bias of a matrix cut along its inputs is added once, so replicated.
  void linear(const std::string& name, int64_t out, int64_t in, bool bias, int shard_axis) {
    matrix(name, out, in, shard_axis);
    if (bias) vector(name + ".bias", out, shard_axis == 0 ? 0 : -1);
  }
  void norm(const std::string& name, int64_t size, bool bias) {
    vector(name + ".weight", size, -1);
    if (bias) vector(name + ".bias", size, -1);
  }
  void layer(int64_t index);
  std::vector<ParamSpec> take() { return std::move(specs_); }

 private:
  void vector(std::string name, int64_t size, int shard_axis) {
    specs_.push_back({.name = std::move(name), .shape = {size}, .shard_axis = shard_axis});
  }

  const ModelConfig& config_;
  std::vector<ParamSpec> specs_;
};

void SpecList::layer(int64_t index) {
  const ModelConfig& c = config_;
  const std::string prefix = fmt::format("model.layers.{}.", index);
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  const int64_t q_size = c.num_heads * c.head_dim, kv_size = c.num_kv_heads * c.head_dim;
  norm(prefix + "input_layernorm", c.hidden_size, c.norm_bias);
  linear(attention + "q_proj", q_size, c.hidden_size, c.qkv_bias, 0);
  linear(attention + "k_proj", kv_size, c.hidden_size, c.qkv_bias, 0);
  linear(attention + "v_proj", kv_size, c.hidden_size, c.qkv_bias, 0);
  linear(attention + "o_proj", c.hidden_size, q_size, c.o_bias, 1);
  if (c.qk_norm) {
    norm(attention + "q_norm", c.head_dim, false);
    norm(attention + "k_norm", c.head_dim, false);
  }
  norm(prefix + "post_attention_layernorm", c.hidden_size, c.norm_bias);
  if (c.gated_mlp) linear(mlp + "gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias, 0);
  linear(mlp + "up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias, 0);
  linear(mlp + "down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias, 1);
}

int64_t stored_bytes(const ParamSpec& spec, DType dtype, WeightScheme scheme) {
  if (scheme == WeightScheme::kPlain) return checked_mul(spec.numel(), dtype_size(dtype));
  require(spec.shape.size() == 2, "{} is no matrix; it cannot be {}", spec.name,
          quantized::scheme_name(scheme));
  return quantized::weight_bytes(scheme, spec.shape[0], spec.shape[1]);
}

int64_t set_bytes(const std::vector<ParamSpec>& specs, DType dtype,
                  const std::vector<WeightScheme>& schemes) {
  int64_t bytes = 0;
  for (size_t i = 0; i < specs.size(); ++i) {
    const int64_t own = stored_bytes(specs[i], dtype, schemes[i]);
    bytes = checked_add(bytes, checked_add<int64_t>(own, 63) / 64 * 64);
  }
  return bytes;
}

void set_element(const Tensor& x, int64_t i, float value) {
  switch (x.dtype()) {
    case DType::kF64:
      x.data<double>()[i] = value;
      return;
    case DType::kF32:
      x.data<float>()[i] = value;
      return;
    case DType::kBF16:
      x.data<bf16>()[i] = bf16(value);
      return;
    default:
      fail("parameters of dtype {} are not initialised", dtype_name(x.dtype()));
  }
}

// Elements 4 * counter ... + 3 of a stream of normal numbers (Box-Muller on Philox words).
std::array<double, 4> four_normals(uint64_t seed, uint64_t stream, uint64_t counter) {
  const auto words = philox(seed, stream, counter);
  std::array<double, 4> normals;
  for (size_t i = 0; i < 4; i += 2) {
    const double u = (static_cast<double>(words[i]) + 0.5) / 4294967296.0;  // never 0
    const double angle = 2 * std::numbers::pi * static_cast<double>(words[i + 1]) / 4294967296.0;
    const double radius = std::sqrt(-2 * std::log(u));
    normals[i] = radius * std::cos(angle);
    normals[i + 1] = radius * std::sin(angle);
  }
  return normals;
}

bool ends_with_one_of(std::string_view name, std::initializer_list<std::string_view> endings) {
  for (const std::string_view ending : endings) {
    if (name.ends_with(ending)) return true;
  }
  return false;
}

}  // namespace

int64_t ParamSpec::numel() const {
  int64_t n = 1;
  for (const int64_t size : shape) n = checked_mul(n, size);
  return n;
}

std::vector<ParamSpec> param_specs(const ModelConfig& config) {
  SpecList list(config);
  list.matrix("model.embed_tokens", config.vocab_size, config.hidden_size, 0);
  if (config.position == PositionKind::kLearned) {
    list.matrix("model.embed_positions",
                config.max_position_embeddings + config.learned_position_offset, config.hidden_size,
                -1);
  }
  for (int64_t layer = 0; layer < config.num_layers; ++layer) list.layer(layer);
  list.norm("model.norm", config.hidden_size, config.norm_bias);
  if (!config.tie_word_embeddings) {
    list.matrix("lm_head", config.vocab_size, config.hidden_size, 0);
  }
  return list.take();
}

int64_t parameter_count(const ModelConfig& config) {
  int64_t count = 0;
  for (const ParamSpec& spec : param_specs(config)) count = checked_add(count, spec.numel());
  return count;
}

ParameterSet::ParameterSet(std::string what, const ModelConfig& config, DType dtype,
                           MemoryResource& memory, std::span<const WeightScheme> schemes)
    : dtype_(dtype), specs_(param_specs(config)), schemes_(schemes.begin(), schemes.end()) {
  if (schemes_.empty()) schemes_.assign(specs_.size(), WeightScheme::kPlain);
  require(schemes_.size() == specs_.size(), "{}: {} schemes for {} parameters", what,
          schemes_.size(), specs_.size());
  arena_ = std::make_unique<Arena>(std::move(what), memory, set_bytes(specs_, dtype, schemes_));
  for (size_t i = 0; i < specs_.size(); ++i) {
    const ParamSpec& spec = specs_[i];
    tensors_.push_back(
        schemes_[i] == WeightScheme::kPlain
            ? arena_->allocate(spec.name, dtype, spec.shape)
            : arena_->allocate(spec.name, DType::kU8, {stored_bytes(spec, dtype, schemes_[i])}));
    index_[spec.name] = i;
  }
}

WeightView ParameterSet::view(size_t i) const {
  if (schemes_[i] == WeightScheme::kPlain) return tensors_[i];
  return {tensors_[i], schemes_[i], specs_[i].shape[0], specs_[i].shape[1]};
}

std::string ParameterSet::description() const {
  std::vector<std::string> names;
  for (size_t i = 0; i < specs_.size(); ++i) {
    if (specs_[i].shape.size() < 2) continue;
    const std::string name(schemes_[i] == WeightScheme::kPlain
                               ? dtype_name(dtype_)
                               : quantized::scheme_name(schemes_[i]));
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

int64_t ParameterSet::index_of(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? -1 : static_cast<int64_t>(found->second);
}

Tensor ParameterSet::find(std::string_view name) const {
  const int64_t i = index_of(name);
  return i < 0 ? Tensor() : tensors_[static_cast<size_t>(i)];
}

const Tensor& ParameterSet::operator[](std::string_view name) const {
  const int64_t i = index_of(name);
  require(i >= 0, "the model has no parameter {}", name);
  return tensors_[static_cast<size_t>(i)];
}

void ParameterSet::set_trainable(std::string_view name, bool trainable) {
  const int64_t i = index_of(name);
  require(i >= 0, "the model has no parameter {}", name);
  specs_[static_cast<size_t>(i)].trainable = trainable;
}

void copy_parameters(Backend& backend, const ParameterSet& to, const ParameterSet& from) {
  require(to.tensors().size() == from.tensors().size(), "parameters of different models: {} and {}",
          to.tensors().size(), from.tensors().size());
  for (size_t i = 0; i < to.tensors().size(); ++i) backend.copy(to.tensors()[i], from.tensors()[i]);
}

void initialize(const ModelConfig& config, uint64_t seed, const ParameterSet& weights) {
  const double residual = 1 / std::sqrt(2 * static_cast<double>(config.num_layers));
  for (size_t index = 0; index < weights.specs().size(); ++index) {
    const ParamSpec& spec = weights.specs()[index];
    const Tensor& x = weights.tensors()[index];
    require(x.device() == Device::kHost && (x.raw() != nullptr || x.numel() == 0),
            "{} is initialised in host memory only", spec.name);
    if (spec.shape.size() == 1) {
      const float value = spec.name.ends_with(".bias") ? 0.0f : 1.0f;
      for (int64_t i = 0; i < x.numel(); ++i) set_element(x, i, value);
      continue;
    }
    const bool ends_branch = ends_with_one_of(spec.name, {"o_proj.weight", "down_proj.weight"});
    const double deviation = 0.02 * (ends_branch ? residual : 1);
    for (int64_t i = 0; i < x.numel(); i += 4) {
      const auto normals = four_normals(seed, index, static_cast<uint64_t>(i / 4));
      for (int64_t j = i; j < std::min(i + 4, x.numel()); ++j) {
        // Rounded to f32 first, so that every dtype starts from the same values.
        set_element(x, j, static_cast<float>(deviation * normals[static_cast<size_t>(j - i)]));
      }
    }
  }
}

}  // namespace longgen::model
