#include "longgen/backend/cuda/attention/backward.cuh"
#include "longgen/backend/cuda/attention/forward.cuh"

namespace longgen::cuda {

template void launch_forward<16>(const ForwardArgs& args, cudaStream_t stream);
template void launch_backward<16>(const BackwardArgs& args, cudaStream_t stream);

}  // namespace longgen::cuda
