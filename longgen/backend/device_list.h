// Which GPUs there are, for people.
#pragma once

#include <string>

namespace longgen {

// "0: NVIDIA H200 (compute capability 9.0, 150.11 GB)" and the like, with a word on those that this
// build has no kernels for; or why there is none.
std::string cuda_devices();

}  // namespace longgen
