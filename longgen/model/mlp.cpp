#include "longgen/model/mlp.h"

#include <algorithm>

#include "longgen/model/buffers.h"

namespace longgen::model {
namespace {

// Rows [begin, begin + count) of what is kept, or the front of the chunk's buffer.
Tensor kept_or(const Tensor& kept, const Tensor& buffer, int64_t begin, int64_t count) {
  return kept.defined() ? rows(kept, begin, count) : first(buffer, count);
}

}  // namespace

MlpSaved MlpSaved::allocate(Arena& arena, const std::string& name, const ModelConfig& c,
                            DType dtype, int64_t rows, bool side_by_side) {
  const int64_t f = c.intermediate_size;
  if (!c.gated_mlp) return {.gate = arena.allocate(name + " up", dtype, {rows, f}), .up = {}};
  if (!side_by_side) {
    return {.gate = arena.allocate(name + " gate", dtype, {rows, f}),
            .up = arena.allocate(name + " up", dtype, {rows, f})};
  }
  // Rows half or whole pages apart would share few sets of a processor's first-level cache.
  const int64_t padding = 2 * f * dtype_size(dtype) % 2048 == 0 ? 64 : 0;
  const Tensor both = arena.allocate(name + " gate and up", dtype, {rows, 2 * f + padding});
  return {.gate = both.slice(1, 0, f), .up = both.slice(1, f, f)};
}

MlpBuffers MlpBuffers::allocate(Arena& arena, const ModelConfig& c, DType dtype, int64_t chunk,
                                bool for_backward, bool side_by_side) {
  MlpBuffers m;
  m.normed = arena.allocate("chunk of the MLP: normed", dtype, {chunk, c.hidden_size});
  const MlpSaved s = MlpSaved::allocate(arena, "chunk of the MLP:", c, dtype, chunk, side_by_side);
  m.gate = s.gate;
  m.up = s.up;
  m.hidden = arena.allocate("chunk of the MLP: hidden", dtype, {chunk, c.intermediate_size});
  if (!for_backward) return m;
  m.dhidden = arena.allocate("chunk of the MLP: dhidden", dtype, {chunk, c.intermediate_size});
  m.dnormed = arena.allocate("chunk of the MLP: dnormed", dtype, {chunk, c.hidden_size});
  m.norm_stats =
      arena.allocate("chunk of the MLP: norm stats", accumulation_dtype(dtype), {chunk, 2});
  return m;
}

Mlp::Mlp(const ModelConfig& config, const ParameterSet& weights, int64_t layer)
    : activation_(config.activation) {
  const std::string prefix = fmt::format("model.layers.{}.", layer), mlp = prefix + "mlp.";
  norm_ = Norm(weights, prefix + "post_attention_layernorm", config.norm, config.norm_eps);
  gate_ = Linear(weights, mlp + (config.gated_mlp ? "gate_proj" : "up_proj"));
  if (config.gated_mlp) up_ = Linear(weights, mlp + "up_proj");
  down_ = Linear(weights, mlp + "down_proj");
}

void Mlp::project(Backend& backend, const Tensor& normed, const Tensor& gate,
                  const Tensor& up) const {
  if (!up_.defined()) return gate_.forward(backend, gate, normed);
  Linear::forward_all(backend, {{gate_, gate}, {up_, up}}, normed);
}

void Mlp::forward(Backend& backend, const MlpBuffers& buffers, const MlpSaved& saved,
                  const Tensor& out, const Tensor& mid, const Tensor& in) const {
  const int64_t chunk = buffers.normed.dim(0);
  for (int64_t begin = 0; begin < in.dim(0); begin += chunk) {
    const int64_t count = std::min(chunk, in.dim(0) - begin);
    const Tensor normed = first(buffers.normed, count), hidden = first(buffers.hidden, count);
    const Tensor gate = kept_or(saved.gate, buffers.gate, begin, count);
    const Tensor up = kept_or(saved.up, buffers.up, begin, count);
    norm_.forward(backend, normed, Tensor(), rows(in, begin, count));
    project(backend, normed, gate, up);
    backend.activation_forward(activation_, hidden, gate, up);
    down_.forward_onto(backend, rows(out, begin, count), rows(mid, begin, count), hidden);
  }
}

void Mlp::backward(Backend& backend, const ParameterSet& gradients, const MlpBuffers& buffers,
                   const MlpSaved& saved, const Tensor& d, const Tensor& in) const {
  const int64_t chunk = buffers.normed.dim(0);
  for (int64_t begin = 0; begin < in.dim(0); begin += chunk) {
    const int64_t count = std::min(chunk, in.dim(0) - begin);
    const Tensor normed = first(buffers.normed, count), dnormed = first(buffers.dnormed, count);
    const Tensor hidden = first(buffers.hidden, count), dhidden = first(buffers.dhidden, count);
    const Tensor stats = first(buffers.norm_stats, count);
    const Tensor gate = kept_or(saved.gate, buffers.gate, begin, count);
    const Tensor up = kept_or(saved.up, buffers.up, begin, count);
    const Tensor x = rows(in, begin, count), dy = rows(d, begin, count);

    norm_.forward(backend, normed, stats, x);
    if (!saved.gate.defined()) project(backend, normed, gate, up);
    down_.backward_input(backend, dhidden, dy);
    backend.activation_both(activation_, hidden, /*dgate=*/gate, /*dup=*/up, dhidden, gate, up);
    down_.backward_parameters(backend, gradients, dy, hidden);
    if (up_.defined()) {
      Linear::backward_all(backend, gradients, dnormed, {{gate_, gate}, {up_, up}}, normed);
    } else {
      gate_.backward(backend, gradients, dnormed, gate, normed);
    }
    norm_.backward(backend, gradients, dy, /*accumulate_dx=*/true, dnormed, x, stats);
  }
}

}  // namespace longgen::model
