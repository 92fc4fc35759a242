#include "longgen/backend/cuda/attention/hopper/decode.cuh"

namespace longgen::cuda::hopper {

template <>
void launch_decode<64>(const DecodeArgs& args, bool early, cudaStream_t stream) {
  launch_decode_kernel<64>(args, early, stream);
}

}  // namespace longgen::cuda::hopper
