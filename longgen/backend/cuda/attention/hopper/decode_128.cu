#include "longgen/backend/cuda/attention/hopper/decode.cuh"

namespace longgen::cuda::hopper {

template <>
void launch_decode<128>(const DecodeArgs& args, bool early, cudaStream_t stream) {
  launch_decode_kernel<128>(args, early, stream);
}

}  // namespace longgen::cuda::hopper
