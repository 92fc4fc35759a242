// Final norm, output projection (perhaps the embedding table itself) and loss, in chunks of tokens:
// the logits of a whole sequence never exist.
#pragma once

#include "longgen/backend/backend.h"
#include "longgen/model/config.h"
#include "longgen/model/linear.h"
#include "longgen/model/norm.h"
#include "longgen/tensor/arena.h"

namespace longgen::model {

struct HeadBuffers {
  Tensor normed;            // [C, d]
  Tensor logits;            // acc [C, V]
  Tensor dlogits, dnormed;  // [C, V], [C, d]
  Tensor norm_stats;        // acc [C, 2]

  // `apart`: rows of dlogits do not lie whole pages apart, as those of most vocabularies would, so
  // that they do not share few sets of a processor's caches.
  static HeadBuffers allocate(Arena& arena, const ModelConfig& config, DType dtype, int64_t chunk,
                              bool for_backward, bool apart = false);
};

class Head {
 public:
  Head(const ModelConfig& config, const ParameterSet& weights);

  // Logits acc [n, V] of x [n, d], n at most the chunk; valid until the buffers' next use.
  Tensor logits(Backend& backend, const HeadBuffers& buffers, const Tensor& x) const;
  // losses acc [T] of x [T, d] against labels i32 [T] (-1: none).
  void loss(Backend& backend, const HeadBuffers& buffers, const Tensor& losses, const Tensor& x,
            const Tensor& labels) const;
  // The same, and dx [T, d] = the gradient of the losses' sum times `scale`.
  void loss_backward(Backend& backend, const ParameterSet& gradients, const HeadBuffers& buffers,
                     const Tensor& losses, const Tensor& dx, const Tensor& x, const Tensor& labels,
                     double scale) const;

 private:
  Norm norm_;
  Linear output_;
};

}  // namespace longgen::model
