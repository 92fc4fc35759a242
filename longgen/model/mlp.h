// The MLP half of a layer, in chunks of tokens: nothing of size [T, intermediate] exists unless it
// is kept for backward.
#pragma once

#include <string>

#include "longgen/backend/backend.h"
#include "longgen/model/config.h"
#include "longgen/model/linear.h"
#include "longgen/model/norm.h"
#include "longgen/tensor/arena.h"

namespace longgen::model {

// What one layer keeps for backward when it is not run again: [T, f], else undefined.
struct MlpSaved {
  Tensor gate, up;

  // Side by side, both are columns of one buffer, so that one product gives both.
  static MlpSaved allocate(Arena& arena, const std::string& name, const ModelConfig& config,
                           DType dtype, int64_t rows, bool side_by_side);
};

// One chunk's buffers, shared by all layers.
struct MlpBuffers {
  Tensor normed, dnormed;            // [C, d]
  Tensor norm_stats;                 // acc [C, 2]
  Tensor gate, up, hidden, dhidden;  // [C, f]; `up` undefined when the MLP is not gated

  static MlpBuffers allocate(Arena& arena, const ModelConfig& config, DType dtype, int64_t chunk,
                             bool for_backward, bool side_by_side);
};

class Mlp {
 public:
  Mlp(const ModelConfig& config, const ParameterSet& weights, int64_t layer);

  // out [T, d] = mid + mlp(norm(in)); out may be mid, but not in when in is not mid.
  void forward(Backend& backend, const MlpBuffers& buffers, const MlpSaved& saved,
               const Tensor& out, const Tensor& mid, const Tensor& in) const;
  // d [T, d] is the gradient at `out` and receives that through the MLP in addition. What `saved`
  // does not hold is computed again; what it holds is destroyed.
  void backward(Backend& backend, const ParameterSet& gradients, const MlpBuffers& buffers,
                const MlpSaved& saved, const Tensor& d, const Tensor& in) const;

 private:
  // normed, gate and up of one chunk.
  void project(Backend& backend, const Tensor& normed, const Tensor& gate, const Tensor& up) const;

  Activation activation_;
  Norm norm_;
  Linear gate_, up_, down_;  // not gated: gate_ is the up projection and up_ is undefined
};

}  // namespace longgen::model
