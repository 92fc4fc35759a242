#include "longgen/backend/cuda/attention/hopper/forward.cuh"

namespace longgen::cuda::hopper {

using Config = ForwardConfig<64, 3, 4>;
static_assert(Config::kRows == tile_rows(64));

template <>
void launch_forward<64>(const HopperForwardArgs& args, cudaStream_t stream) {
  launch_forward_kernel<Config>(args, stream);
}

}  // namespace longgen::cuda::hopper
