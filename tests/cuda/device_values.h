// Random numbers that host and device form from an index alone, for tensors too large to be copied,
// and comparisons on the device. All wait for the device before and after.
#pragma once

#include <cstdint>

namespace longgen::testing {

// Numbers first, first + 1, ... of a stream: nearly normal with deviation 1, rounded to bf16.
void host_values(uint64_t stream, int64_t first, int64_t count, float* out);
// Numbers 0 to count - 1 as bf16 on the device.
void device_values(uint64_t stream, int64_t count, void* out);
// NaN in every bf16 and f32.
void poison_device(void* data, int64_t bytes);
// How many of the 32-bit words differ.
int64_t differing_words(const void* a, const void* b, int64_t bytes);

}  // namespace longgen::testing
