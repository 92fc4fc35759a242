#include "longgen/backend/cuda/attention/hopper/backward.cuh"

namespace longgen::cuda::hopper {

template void launch_backward<128>(const BackwardKernelArgs& args, int processors,
                                   cudaStream_t stream);

}  // namespace longgen::cuda::hopper
