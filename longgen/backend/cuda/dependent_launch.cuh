// Kernels of a decode step, which take a microsecond or two each, start while the one before them
// still runs: the GPU has their blocks in place when it ends (programmatic dependent launch).
//
// In a kernel that is started by launch_dependent() every thread must call wait_for_inputs() before
// it reads what an earlier kernel wrote, and before it writes anything; a block has at least one
// that does, so that whatever ran before the kernel before has ended, too. What no kernel of the
// step writes, weights, may be read earlier.
#pragma once

#include <cuda_runtime.h>

#include <utility>

namespace longgen::cuda {

// The next kernel's blocks may come as soon as all of this one's are there.
__device__ inline void let_next_start() { asm volatile("griddepcontrol.launch_dependents;"); }
// Until kernels before have ended and what they wrote is visible.
__device__ inline void wait_for_inputs() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

inline cudaLaunchAttribute early_start() {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  return early;
}

template <typename... Parameters, typename... Arguments>
void launch_dependent(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, cudaStream_t stream,
                      Arguments&&... arguments) {
  cudaLaunchAttribute early = early_start();
  cudaLaunchConfig_t launch{};
  launch.gridDim = blocks;
  launch.blockDim = threads;
  launch.stream = stream;
  launch.attrs = &early;
  launch.numAttrs = 1;
  cudaLaunchKernelEx(&launch, kernel, Parameters(std::forward<Arguments>(arguments))...);
}

}  // namespace longgen::cuda
