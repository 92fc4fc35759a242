// Attention by its definition, one query at a time. A query's result depends on the query and on
// the keys it sees alone, summed in ascending position: bit-equal however a sequence is chunked,
// paged or batched.
#pragma once

#include "longgen/backend/backend.h"

namespace longgen::reference {

void attention_forward(const AttentionForward& args);
void attention_backward(const AttentionBackward& args);
void kv_write(const KvView& kv, DType kv_dtype, int64_t block_size, int64_t first_position,
              const Tensor& k, const Tensor& v);

}  // namespace longgen::reference
