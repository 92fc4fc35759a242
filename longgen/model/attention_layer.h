// The attention half of a layer: norm, projections, QK-norm, rotation, attention, output
// projection.
#pragma once

#include <span>

#include "longgen/backend/backend.h"
#include "longgen/model/config.h"
#include "longgen/model/linear.h"
#include "longgen/model/norm.h"
#include "longgen/tensor/arena.h"

namespace longgen::model {

// What all layers of one call share.
struct StepContext {
  Backend& backend;
  Tensor positions;   // i32 [T], in the row's document
  Tensor rope_table;  // f32 [positions, rotary_dim]; undefined with learned positions
};

// What the attention half computes. Training keeps it for backward; serving has no statistics.
struct AttentionActivations {
  Tensor norm_stats;        // acc [T, 2]
  Tensor q_raw, k_raw;      // before the QK-norm; undefined without one
  Tensor q_stats, k_stats;  // acc [T * heads, 2]
  Tensor q, k, v;           // [T, heads, head_dim], q and k rotated
  Tensor out;               // [T, heads, head_dim]
  Tensor lse;               // acc [heads, T]

  // Statistics and lse are left out unless a backward follows, out and lse where they are kept
  // elsewhere. Side by side, q, k and v are columns of one buffer unless there is a QK-norm, so
  // that one product gives them all.
  static AttentionActivations allocate(Arena& arena, const ModelConfig& config, DType dtype,
                                       int64_t max_rows, bool for_backward, bool output_elsewhere,
                                       bool side_by_side);
  AttentionActivations first_rows(int64_t n) const;
};

struct AttentionGradients {
  Tensor dq, dk, dv, dout;  // [T, heads, head_dim]
  Tensor workspace;         // u8

  static AttentionGradients allocate(Arena& arena, const ModelConfig& config, DType dtype,
                                     int64_t max_rows, const Backend& backend, bool side_by_side);
  AttentionGradients first_rows(int64_t n) const;
};

// How queries meet keys: over the rows of a packed sequence (training), or over a cache (serving).
class AttentionCall {
 public:
  virtual ~AttentionCall() = default;
  // Fills a.out (every row finite) and a.lse from a.q, a.k and a.v of `layer`.
  virtual void run(int64_t layer, const AttentionActivations& a) = 0;
};

// What the backend needs beside its operands for up to max_rows queries of any layer.
Tensor allocate_attention_workspace(Arena& arena, const ModelConfig& config, const Backend& backend,
                                    DType dtype, int64_t max_rows);

class AttentionLayer {
 public:
  AttentionLayer(const ModelConfig& config, const ParameterSet& weights, int64_t layer);

  // mid [T, d] = x + attention(norm(x)). `normed` [T, d] is scratch; mid may be x.
  void forward(const StepContext& step, const AttentionActivations& a, const Tensor& normed,
               const Tensor& mid, const Tensor& x, AttentionCall& call) const;

  // Of forward() only what a cache takes: a.k (rotated) and a.v.
  void forward_keys(const StepContext& step, const AttentionActivations& a, const Tensor& normed,
                    const Tensor& x) const;

  // dnormed [T, d] = the gradient at the norm's output, from dmid. It may be the memory of g.dout.
  void backward(const StepContext& step, const ParameterSet& gradients,
                const AttentionActivations& a, const AttentionGradients& g, const Tensor& normed,
                const Tensor& dnormed, const Tensor& dmid, const Tensor& x,
                std::span<const DocumentRange> documents) const;
  // dx += the gradient through the norm.
  void backward_norm(const StepContext& step, const ParameterSet& gradients,
                     const AttentionActivations& a, const Tensor& dx, const Tensor& dnormed,
                     const Tensor& x) const;

 private:
  // q and k in place; one call where they lie side by side.
  void rotate(const StepContext& step, const Tensor& q, const Tensor& k, bool inverse) const;

  int64_t layer_;
  const AttentionPattern* pattern_;
  double scale_;
  Norm norm_, q_norm_, k_norm_;
  Linear q_, k_, v_, o_;
};

}  // namespace longgen::model
