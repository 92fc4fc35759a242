// kv_write of the cpu backend.
#include "longgen/backend/cpu/attention.h"

#include <cstring>

#include "longgen/backend/cpu/attention_check.h"

namespace longgen {

void cpu_kv_write(const KvView& kv, DType kv_dtype, int64_t block_size, int64_t first_position,
                  const Tensor& k, const Tensor& v, CpuContext& context) {
  cpu::attention_checks().kv_write(kv, kv_dtype, block_size, first_position, k, v);
  const int64_t n = k.dim(0), size = dtype_size(kv_dtype);
  const auto row_bytes = static_cast<size_t>(k.dim(2) * size);
  context.pool.for_ranges(n, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t position = first_position + i, block = position / block_size;
      const int64_t page = kv.block_table == nullptr ? block : kv.block_table[block];
      for (int64_t h = 0; h < k.dim(1); ++h) {
        const int64_t at =
            page * kv.page_stride + h * kv.head_stride + position % block_size * kv.token_stride;
        const auto copy = [&](void* pages, const Tensor& x) {
          std::memcpy(
              static_cast<std::byte*>(pages) + at * size,
              static_cast<const std::byte*>(x.raw()) + (i * x.stride(0) + h * x.stride(1)) * size,
              row_bytes);
        };
        copy(kv.keys, k);
        copy(kv.values, v);
      }
    }
  });
}

}  // namespace longgen
