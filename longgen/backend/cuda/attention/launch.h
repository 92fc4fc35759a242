// Attention launchers: pointers, strides and a stream. Which tiles there are comes from
// work_list.h; which pairs see each other from PatternArgs, the device's copy of AttentionPattern.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace longgen::cuda {

// AttentionPattern with a power-of-two block size.
struct PatternArgs {
  int32_t block_shift = 6;
  int32_t sink_blocks = 0;
  int32_t local_blocks = INT32_MAX;  // INT32_MAX: all
  int32_t stride = 0;
  const int32_t* offsets = nullptr;  // [kv_heads of the call], device
};

// One sequence of a call: its rows, and where its keys lie (see KvView). block_table: device, or
// null for the identity.
struct SequenceArgs {
  const void* keys = nullptr;
  const void* values = nullptr;
  int64_t page_stride = 0, head_stride = 0, token_stride = 0;  // elements
  const int32_t* block_table = nullptr;
  int64_t row_begin = 0, row_count = 0, first_position = 0, length = 0;
};

// kTileRows rows of one sequence from `first` on. What a row is depends on the kernel: a packed
// pair (query, head of the group), a query, or a key.
struct Tile {
  int32_t sequence, first;
};
inline constexpr int kTileRows = 64;

struct ForwardArgs {
  const void* q = nullptr;
  void* out = nullptr;
  float* lse = nullptr;                                                    // may be null
  int64_t q_row = 0, q_head = 0, out_row = 0, out_head = 0, lse_head = 0;  // strides, elements
  const SequenceArgs* sequences = nullptr;
  const Tile* tiles = nullptr;  // of packed rows
  int32_t tile_count = 0, kv_heads = 0, group = 1, head_dim = 0;
  PatternArgs pattern;
  float scale = 1;
  // Keys cut into pieces whose results are merged in order: f32 [splits, tiles, kv_heads, 64,
  // head_dim + 2], the last two being the maximum and the sum. Null when splits is 1.
  int32_t splits = 1;
  float* partials = nullptr;
};

struct BackwardArgs {
  const void *q = nullptr, *k = nullptr, *v = nullptr, *out = nullptr, *dout = nullptr;
  void *dq = nullptr, *dk = nullptr, *dv = nullptr;
  const float* lse = nullptr;
  float* delta = nullptr;  // [q_heads, rows]: row sums of dout * out
  int64_t q_row = 0, q_head = 0, out_row = 0, out_head = 0, dout_row = 0, dout_head = 0;
  int64_t k_row = 0, k_head = 0, v_row = 0, v_head = 0;
  int64_t dq_row = 0, dq_head = 0, dk_row = 0, dk_head = 0, dv_row = 0, dv_head = 0;
  int64_t lse_head = 0, delta_head = 0;
  const SequenceArgs* documents = nullptr;  // rows, first_position 0, length = row_count
  const Tile* query_tiles = nullptr;        // of packed rows
  const Tile* key_tiles = nullptr;          // of keys
  int32_t query_tile_count = 0, key_tile_count = 0;
  int32_t kv_heads = 0, group = 1, head_dim = 0;
  int64_t rows = 0;
  PatternArgs pattern;
  float scale = 1;
};

// bf16 on tensor cores: the head sizes of instances/, rows and pages at multiples of 16 bytes.
bool has_mma_kernel(int64_t head_dim);
void attention_forward_mma(const ForwardArgs& args, cudaStream_t stream);
void attention_backward_mma(const BackwardArgs& args, cudaStream_t stream);

// f32 or bf16, any head size up to 256, any strides: one warp a row, for small models and as the
// yardstick of the others.
void attention_forward_simple(const ForwardArgs& args, bool bf16, cudaStream_t stream);
void attention_backward_simple(const BackwardArgs& args, bool bf16, cudaStream_t stream);

// delta = row sums of dout * out, over all rows.
void attention_delta(const BackwardArgs& args, bool bf16, cudaStream_t stream);

// Rows of k and v [T, kv_heads, head_dim], those of each sequence, to positions first_position ...
// of its pages.
struct KvWriteArgs {
  const SequenceArgs* sequences = nullptr;  // length is not read
  int32_t sequence_count = 0;
  const void *k = nullptr, *v = nullptr;
  int64_t k_row = 0, k_head = 0, v_row = 0, v_head = 0;
  int64_t most_rows = 0;     // of a sequence
  bool in_sixteens = false;  // all of them begin at multiples of 16 bytes, channels too
  int32_t kv_heads = 0, head_dim = 0, block_shift = 6;
};
void kv_write(const KvWriteArgs& args, bool bf16, cudaStream_t stream);

}  // namespace longgen::cuda
