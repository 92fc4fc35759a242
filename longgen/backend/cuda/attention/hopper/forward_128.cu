#include "longgen/backend/cuda/attention/hopper/forward.cuh"

namespace longgen::cuda::hopper {

using Config = ForwardConfig<128, 2, 2>;
static_assert(Config::kRows == tile_rows(128));

template <>
void launch_forward<128>(const HopperForwardArgs& args, cudaStream_t stream) {
  launch_forward_kernel<Config>(args, stream);
}

}  // namespace longgen::cuda::hopper
