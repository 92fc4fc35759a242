// Attention backward on wgmma and TMA: bf16, head sizes 64 and 128, blocks of 64, documents that
// begin at multiples of 64 rows, operands at multiples of 16 bytes. Equal bits from call to call on
// GPUs with as many processors (the list of work depends on their number).
// Design and measurements: docs/kernels.md.
#pragma once

#include "longgen/backend/backend.h"
#include "longgen/backend/cuda/attention/launch.h"
#include "longgen/backend/cuda/uploads.h"

namespace longgen::cuda::hopper {

// What was tuned; see docs/kernels.md. Results do not depend on it but for the last bits.
struct BackwardTuning {
  // Tiles (times query heads of a group) of a chunk: with 64 KiB each for q, dout and dq they stay
  // in L2 (50 MB), and there are more than twice as many as processors, so that neighbours need not
  // wait for each other.
  int64_t chunk_steps = 320;
  int64_t remote_blocks = 32;  // queries of a remote chunk, in blocks
  // KV heads whose items alternate. 0: with strided blocks four, since many items of a head want
  // the same tiles; otherwise as many as have four query heads, since their tiles share L2.
  int64_t heads_together = 0;
  int64_t lag_waves = 1;  // remote_lag, in items of all processors
};

// For head sizes and types that some call can have; 0 otherwise.
int64_t backward_workspace_bytes(const AttentionShape& shape);
bool takes_backward(const AttentionBackward& args);
// `b` describes the tensors of `a`; its lists of tiles are not read.
void attention_backward(const AttentionBackward& a, const BackwardArgs& b, Uploads& uploads,
                        int processors, cudaStream_t stream, const BackwardTuning& tuning = {});

}  // namespace longgen::cuda::hopper
