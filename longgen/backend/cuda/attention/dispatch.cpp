// Which head sizes have tensor-core kernels: one instantiation a file in instances/.
#include "longgen/backend/cuda/attention/launch.h"

namespace longgen::cuda {

template <int D>
void launch_forward(const ForwardArgs& args, cudaStream_t stream);
template <int D>
void launch_backward(const BackwardArgs& args, cudaStream_t stream);

namespace {

// Calls f with the head size as a constant; false when there is no kernel for it.
template <typename F>
bool by_head_dim(int64_t head_dim, const F& f) {
  switch (head_dim) {
    case 16:
      return f.template operator()<16>(), true;
    case 32:
      return f.template operator()<32>(), true;
    case 64:
      return f.template operator()<64>(), true;
    case 80:
      return f.template operator()<80>(), true;
    case 96:
      return f.template operator()<96>(), true;
    case 128:
      return f.template operator()<128>(), true;
    default:
      return false;
  }
}

}  // namespace

bool has_mma_kernel(int64_t head_dim) {
  return by_head_dim(head_dim, []<int D>() {});
}

void attention_forward_mma(const ForwardArgs& args, cudaStream_t stream) {
  by_head_dim(args.head_dim, [&]<int D>() { launch_forward<D>(args, stream); });
}

void attention_backward_mma(const BackwardArgs& args, cudaStream_t stream) {
  by_head_dim(args.head_dim, [&]<int D>() { launch_backward<D>(args, stream); });
}

}  // namespace longgen::cuda
