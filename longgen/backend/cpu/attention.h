// Attention of the cpu backend. Contracts are those of backend.h; the functions check their
// arguments themselves.
#pragma once

#include <cstdint>

#include "longgen/backend/backend.h"
#include "longgen/backend/cpu/cpu_context.h"

namespace longgen {

int64_t cpu_attention_forward_workspace_bytes(const AttentionShape& shape,
                                              const CpuContext& context);
void cpu_attention_forward(const AttentionForward& args, CpuContext& context);

int64_t cpu_attention_backward_workspace_bytes(const AttentionShape& shape,
                                               const CpuContext& context);
void cpu_attention_backward(const AttentionBackward& args, CpuContext& context);

void cpu_kv_write(const KvView& kv, DType kv_dtype, int64_t block_size, int64_t first_position,
                  const Tensor& k, const Tensor& v, CpuContext& context);

}  // namespace longgen
