#include "longgen/model/attention_layer.h"

#include "longgen/model/buffers.h"

namespace longgen::model {
namespace {

struct Heads {
  Tensor q, k, v;
};

// Side by side, they are columns of one buffer.
Heads allocate_heads(Arena& arena, const std::string& purpose, const ModelConfig& c, DType dtype,
                     int64_t rows, bool side_by_side) {
  const int64_t q = c.num_heads, kv = c.num_kv_heads;
  if (side_by_side) {
    const Tensor all =
        arena.allocate(purpose + "q, k and v", dtype, {rows, q + 2 * kv, c.head_dim});
    return {all.slice(1, 0, q), all.slice(1, q, kv), all.slice(1, q + kv, kv)};
  }
  return {arena.allocate(purpose + "q", dtype, {rows, q, c.head_dim}),
          arena.allocate(purpose + "k", dtype, {rows, kv, c.head_dim}),
          arena.allocate(purpose + "v", dtype, {rows, kv, c.head_dim})};
}

}  // namespace

AttentionActivations AttentionActivations::allocate(Arena& arena, const ModelConfig& c, DType dtype,
                                                    int64_t rows, bool for_backward,
                                                    bool output_elsewhere, bool side_by_side) {
  AttentionActivations a;
  const Heads heads =
      allocate_heads(arena, "activations: attention ", c, dtype, rows, side_by_side && !c.qk_norm);
  a.q = heads.q;
  a.k = heads.k;
  a.v = heads.v;
  if (!output_elsewhere)
    a.out = arena.allocate("activations: attention out", dtype, {rows, c.num_heads, c.head_dim});
  if (c.qk_norm) {
    a.q_raw = arena.allocate("activations: attention q before norm", dtype,
                             {rows, c.num_heads, c.head_dim});
    a.k_raw = arena.allocate("activations: attention k before norm", dtype,
                             {rows, c.num_kv_heads, c.head_dim});
  }
  if (!for_backward) return a;
  const DType acc = accumulation_dtype(dtype);
  a.norm_stats = arena.allocate("activations: attention norm stats", acc, {rows, 2});
  if (!output_elsewhere)
    a.lse = arena.allocate("activations: attention lse", acc, {c.num_heads, rows});
  if (c.qk_norm) {
    a.q_stats = arena.allocate("activations: attention q norm stats", acc, {rows * c.num_heads, 2});
    a.k_stats =
        arena.allocate("activations: attention k norm stats", acc, {rows * c.num_kv_heads, 2});
  }
  return a;
}

AttentionActivations AttentionActivations::first_rows(int64_t n) const {
  AttentionActivations a;
  a.norm_stats = first(norm_stats, n);
  a.q_raw = first(q_raw, n);
  a.k_raw = first(k_raw, n);
  a.q_stats = first(q_stats, n * q.dim(1));
  a.k_stats = first(k_stats, n * k.dim(1));
  a.q = first(q, n);
  a.k = first(k, n);
  a.v = first(v, n);
  a.out = first(out, n);
  a.lse = front(lse, {q.dim(1), n});
  return a;
}

AttentionGradients AttentionGradients::allocate(Arena& arena, const ModelConfig& c, DType dtype,
                                                int64_t rows, const Backend& backend,
                                                bool side_by_side) {
  const AttentionShape shape{.rows = rows,
                             .q_heads = c.num_heads,
                             .kv_heads = c.num_kv_heads,
                             .head_dim = c.head_dim,
                             .dtype = dtype};
  AttentionGradients g;
  const Heads heads = allocate_heads(arena, "gradients of activations: attention ", c, dtype, rows,
                                     side_by_side && !c.qk_norm);
  g.dq = heads.q;
  g.dk = heads.k;
  g.dv = heads.v;
  g.workspace = arena.allocate("attention workspace: backward", DType::kU8,
                               {backend.attention_backward_workspace_bytes(shape)});
  return g;
}

AttentionGradients AttentionGradients::first_rows(int64_t n) const {
  return {first(dq, n), first(dk, n), first(dv, n), first(dout, n), workspace};
}

Tensor allocate_attention_workspace(Arena& arena, const ModelConfig& config, const Backend& backend,
                                    DType dtype, int64_t max_rows) {
  const int64_t bytes = backend.attention_forward_workspace_bytes({.rows = max_rows,
                                                                   .q_heads = config.num_heads,
                                                                   .kv_heads = config.num_kv_heads,
                                                                   .head_dim = config.head_dim,
                                                                   .dtype = dtype});
  return arena.allocate("attention workspace: forward", DType::kU8, {bytes});
}

AttentionLayer::AttentionLayer(const ModelConfig& config, const ParameterSet& weights,
                               int64_t layer)
    : layer_(layer),
      pattern_(&config.patterns[static_cast<size_t>(layer)]),
      scale_(config.attention_scale()) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const std::string attention = prefix + "self_attn.";
  norm_ = Norm(weights, prefix + "input_layernorm", config.norm, config.norm_eps);
  q_ = Linear(weights, attention + "q_proj");
  k_ = Linear(weights, attention + "k_proj");
  v_ = Linear(weights, attention + "v_proj");
  o_ = Linear(weights, attention + "o_proj");
  if (!config.qk_norm) return;
  q_norm_ = Norm(weights, attention + "q_norm", NormKind::kRms, config.norm_eps);
  k_norm_ = Norm(weights, attention + "k_norm", NormKind::kRms, config.norm_eps);
}

void AttentionLayer::rotate(const StepContext& step, const Tensor& q, const Tensor& k,
                            bool inverse) const {
  const Tensor both = side_by_side(merge_heads(q), merge_heads(k));
  if (both.defined()) {
    const Tensor heads = both.reshape({both.dim(0), q.dim(1) + k.dim(1), q.dim(2)});
    return step.backend.rope(heads, step.rope_table, step.positions, inverse);
  }
  for (const Tensor* x : {&q, &k}) {
    step.backend.rope(*x, step.rope_table, step.positions, inverse);
  }
}

void AttentionLayer::forward(const StepContext& step, const AttentionActivations& a,
                             const Tensor& normed, const Tensor& mid, const Tensor& x,
                             AttentionCall& call) const {
  Backend& b = step.backend;
  norm_.forward(b, normed, a.norm_stats, x);
  Linear::forward_all(b,
                      {{q_, merge_heads(q_norm_.defined() ? a.q_raw : a.q)},
                       {k_, merge_heads(k_norm_.defined() ? a.k_raw : a.k)},
                       {v_, merge_heads(a.v)}},
                      normed);
  if (q_norm_.defined()) {
    q_norm_.forward(b, a.q, a.q_stats, a.q_raw);
    k_norm_.forward(b, a.k, a.k_stats, a.k_raw);
  }
  if (step.rope_table.defined()) rotate(step, a.q, a.k, /*inverse=*/false);
  call.run(layer_, a);
  o_.forward_onto(b, mid, x, merge_heads(a.out));
}

void AttentionLayer::forward_keys(const StepContext& step, const AttentionActivations& a,
                                  const Tensor& normed, const Tensor& x) const {
  Backend& b = step.backend;
  norm_.forward(b, normed, a.norm_stats, x);
  Linear::forward_all(
      b, {{k_, merge_heads(k_norm_.defined() ? a.k_raw : a.k)}, {v_, merge_heads(a.v)}}, normed);
  if (k_norm_.defined()) k_norm_.forward(b, a.k, a.k_stats, a.k_raw);
  if (step.rope_table.defined()) b.rope(a.k, step.rope_table, step.positions, /*inverse=*/false);
}

void AttentionLayer::backward(const StepContext& step, const ParameterSet& gradients,
                              const AttentionActivations& a, const AttentionGradients& g,
                              const Tensor& normed, const Tensor& dnormed, const Tensor& dmid,
                              const Tensor& x, std::span<const DocumentRange> documents) const {
  Backend& b = step.backend;
  o_.backward(b, gradients, merge_heads(g.dout), dmid, merge_heads(a.out));
  b.attention_backward({.dq = g.dq,
                        .dk = g.dk,
                        .dv = g.dv,
                        .dout = g.dout,
                        .out = a.out,
                        .q = a.q,
                        .k = a.k,
                        .v = a.v,
                        .lse = a.lse,
                        .documents = documents,
                        .pattern = pattern_,
                        .scale = scale_,
                        .workspace = {static_cast<std::byte*>(g.workspace.raw()),
                                      static_cast<size_t>(g.workspace.numel())}});
  if (step.rope_table.defined()) rotate(step, g.dq, g.dk, /*inverse=*/true);
  if (q_norm_.defined()) {
    q_norm_.backward(b, gradients, g.dq, false, g.dq, a.q_raw, a.q_stats);
    k_norm_.backward(b, gradients, g.dk, false, g.dk, a.k_raw, a.k_stats);
  }
  norm_.forward(b, normed, Tensor(), x);  // cheaper to compute again than to keep
  Linear::backward_all(b, gradients, dnormed,
                       {{q_, merge_heads(g.dq)}, {k_, merge_heads(g.dk)}, {v_, merge_heads(g.dv)}},
                       normed);
}

void AttentionLayer::backward_norm(const StepContext& step, const ParameterSet& gradients,
                                   const AttentionActivations& a, const Tensor& dx,
                                   const Tensor& dnormed, const Tensor& x) const {
  norm_.backward(step.backend, gradients, dx, /*accumulate_dx=*/true, dnormed, x, a.norm_stats);
}

}  // namespace longgen::model
