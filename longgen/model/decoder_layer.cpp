#include "longgen/model/decoder_layer.h"

#include "longgen/model/buffers.h"

namespace longgen::model {

LayerActivations LayerActivations::first_rows(int64_t n) const {
  return {attention.first_rows(n), first(mid, n), {first(mlp.gate, n), first(mlp.up, n)}};
}

LayerScratch LayerScratch::first_rows(int64_t n) const {
  return {first(dnormed, n), first(normed, n), attention.first_rows(n), mlp};
}

void DecoderLayer::forward_attention(const StepContext& step, const LayerActivations& a,
                                     const LayerScratch& scratch, const Tensor& x,
                                     AttentionCall& call) const {
  attention_.forward(step, a.attention, scratch.normed, a.mid, x, call);
}

void DecoderLayer::forward_keys(const StepContext& step, const LayerActivations& a,
                                const LayerScratch& scratch, const Tensor& x) const {
  attention_.forward_keys(step, a.attention, scratch.normed, x);
}

void DecoderLayer::forward(const StepContext& step, const LayerActivations& a,
                           const LayerScratch& scratch, const Tensor& out, const Tensor& x,
                           AttentionCall& call) const {
  forward_attention(step, a, scratch, x, call);
  mlp_.forward(step.backend, scratch.mlp, a.mlp, out, a.mid, parallel_ ? x : a.mid);
}

void DecoderLayer::backward(const StepContext& step, const ParameterSet& gradients,
                            const LayerActivations& a, const LayerScratch& scratch, const Tensor& d,
                            const Tensor& x, std::span<const DocumentRange> documents) const {
  const auto mlp = [&](const Tensor& in) {
    mlp_.backward(step.backend, gradients, scratch.mlp, a.mlp, d, in);
  };
  // Side by side, both halves need the gradient at the output, so the MLP, which adds to it, is
  // last.
  if (!parallel_) mlp(a.mid);
  attention_.backward(step, gradients, a.attention, scratch.attention, scratch.normed,
                      scratch.dnormed, d, x, documents);
  if (parallel_) mlp(x);
  attention_.backward_norm(step, gradients, a.attention, d, scratch.dnormed, x);
}

}  // namespace longgen::model
