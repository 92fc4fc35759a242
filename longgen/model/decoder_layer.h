// One layer: attention half and MLP half, one after the other or side by side (parallel residual).
// The only place where a layer is written down; training and serving differ in the AttentionCall.
#pragma once

#include <span>

#include "longgen/model/attention_layer.h"
#include "longgen/model/mlp.h"

namespace longgen::model {

// What a layer computes and its backward reads. Recomputing passes own one, others one a layer.
struct LayerActivations {
  AttentionActivations attention;
  Tensor mid;    // [T, d], the residual stream after attention
  MlpSaved mlp;  // undefined where the MLP runs again in backward

  LayerActivations first_rows(int64_t n) const;
};

// Scratch memory shared by all layers. The halves never need theirs at the same time, except that
// dnormed lasts through the MLP of a parallel residual; otherwise it may be attention's workspace.
struct LayerScratch {
  Tensor dnormed;  // [T, d]
  Tensor normed;   // [T, d], attention half; may be the layer's mid, and is attention.dout's memory
  AttentionGradients attention;
  MlpBuffers mlp;

  LayerScratch first_rows(int64_t n) const;
};

class DecoderLayer {
 public:
  DecoderLayer(const ModelConfig& config, const ParameterSet& weights, int64_t layer)
      : parallel_(config.parallel_residual),
        attention_(config, weights, layer),
        mlp_(config, weights, layer) {}

  // The attention half, into a.mid. backward() needs it to be the last thing computed into `a`.
  void forward_attention(const StepContext& step, const LayerActivations& a,
                         const LayerScratch& scratch, const Tensor& x, AttentionCall& call) const;
  // Of the attention half only the keys and values, into a.attention.
  void forward_keys(const StepContext& step, const LayerActivations& a, const LayerScratch& scratch,
                    const Tensor& x) const;
  // out [T, d] from x [T, d]; out may be a.mid. Unless the halves stand side by side (parallel
  // residual), both may be x.
  void forward(const StepContext& step, const LayerActivations& a, const LayerScratch& scratch,
               const Tensor& out, const Tensor& x, AttentionCall& call) const;
  // d [T, d]: in, the gradient at the layer's output; out, at its input x.
  void backward(const StepContext& step, const ParameterSet& gradients, const LayerActivations& a,
                const LayerScratch& scratch, const Tensor& d, const Tensor& x,
                std::span<const DocumentRange> documents) const;

 private:
  bool parallel_;
  AttentionLayer attention_;
  Mlp mlp_;
};

}  // namespace longgen::model
