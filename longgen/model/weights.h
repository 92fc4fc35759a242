// The parameters of a decoder, by name.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/model/config.h"
#include "longgen/tensor/arena.h"

namespace longgen::model {

// Names are Hugging Face's for Llama, whatever the family: model.embed_tokens.weight,
// model.embed_positions.weight, model.layers.N.{input_layernorm, post_attention_layernorm},
// .self_attn.{q,k,v,o}_proj, .self_attn.{q,k}_norm, .mlp.{gate,up,down}_proj (gate only when
// gated), model.norm, lm_head (absent when tied); each .weight, and .bias where the config has one.
struct ParamSpec {
  std::string name;
  std::vector<int64_t> shape;  // matrices [out, in]
  bool decay = false;          // weight decay: matrices only
  bool trainable = true;       // false: no gradient is computed
  int shard_axis = -1;         // the axis that tensor parallelism cuts; -1: replicated
  int64_t numel() const;
};

// In a fixed order: embeddings, layers from first to last, final norm, head.
std::vector<ParamSpec> param_specs(const ModelConfig& config);
int64_t parameter_count(const ModelConfig& config);

// One tensor per ParamSpec, in one arena. The same class holds weights, gradients, masters and
// moments: they differ in dtype alone. Weights that only serve may be quantised.
class ParameterSet {
 public:
  // Allocates; contents are zero. `what` ("weights", "gradients") names them in reports. `schemes`
  // says for each spec how it is stored; empty: all plain.
  ParameterSet(std::string what, const ModelConfig& config, DType dtype, MemoryResource& memory,
               std::span<const WeightScheme> schemes = {});

  // Of the plain parameters, and of the activations that go with them.
  DType dtype() const { return dtype_; }
  const std::vector<ParamSpec>& specs() const { return specs_; }
  // The bytes (u8) of a quantised one.
  const std::vector<Tensor>& tensors() const { return tensors_; }
  // Parameter i as products take it: a matrix.
  WeightView view(size_t i) const;
  WeightScheme scheme(size_t i) const { return schemes_[i]; }
  // "bf16", or "Q4_1, Q8_0, bf16": how the matrices are stored, in order of appearance.
  std::string description() const;
  // Throws Error when there is no such parameter.
  const Tensor& operator[](std::string_view name) const;
  // Undefined tensor when there is none.
  Tensor find(std::string_view name) const;
  // Index into specs() and tensors(); -1 when there is none.
  int64_t index_of(std::string_view name) const;
  int64_t bytes() const { return arena_->used_bytes(); }
  // A frozen parameter gets no gradient from passes that are made afterwards. Throws Error when
  // there is no such parameter.
  void set_trainable(std::string_view name, bool trainable);

 private:
  DType dtype_;
  std::vector<ParamSpec> specs_;
  std::vector<WeightScheme> schemes_;  // one a spec
  std::vector<Tensor> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  std::unique_ptr<Arena> arena_;
};

// Every parameter of `to` from that of `from`, of the same model; dtypes and devices may differ.
void copy_parameters(Backend& backend, const ParameterSet& to, const ParameterSet& from);

// Normal(0, 0.02), output projections of a residual branch scaled by 1 / sqrt(2 layers), norms 1,
// biases 0; each element from its own counter (seed, tensor, element), so the same for every dtype.
void initialize(const ModelConfig& config, uint64_t seed, const ParameterSet& weights);

}  // namespace longgen::model
