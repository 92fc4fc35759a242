// The inner loops of attention, one table an instruction set. No function bodies here: see simd.h.
//
// Scores are kept transposed: a panel is 32 consecutive rows of a query tile (row = token of the
// tile times group + head of the group), one row a lane, so that softmax runs down columns and
// needs no sums across lanes. S^T [keys, 32] = K Q^T and O^T [head_dim, 32] += V^T P^T. The left
// operand of a product is read one broadcast at a time, the right one by vectors.
//
// A unit is 32 bits: an f32, or two bf16 of neighbouring depth k. Layouts ("units" of either kind):
//   rows        [n, depth]    as stored, a row after the other: left operand of depth `depth`
//   columns     [depth, 32]   a panel of rows transposed: right operand of depth `depth`
//   paired      [n, depth]    depth n: f32 rows as they are; bf16 rows 2i and 2i + 1 interleaved to
//                             [n / 2, depth] units. Right operand of depth n, or (read down its
//                             columns) left operand of depth n
#pragma once

#include <cstdint>

namespace longgen {

// Narrow enough that a panel's scores with a key tile, and its outputs, stay in the nearest cache.
constexpr int64_t kPanel = 32;

// C [m, n] f32 (+)= A B: A's unit (i, k) is at a[i * a_row + k * a_depth], B's unit (k, j) at
// b[k * b_depth + j]. m and n are multiples of 16.
struct AttentionProduct {
  int64_t m, n, depth;  // depth in units
  const uint32_t* a;
  int64_t a_row, a_depth;
  const uint32_t* b;
  int64_t b_depth;
  float* c;
  int64_t c_row;
  bool accumulate;
};

// Keys of a panel that are masked: key n of the tile is seen by lane j iff
// lowest[j] <= first_key + n <= position[j]. position null: all are seen.
struct AttentionMask {
  const int32_t* position = nullptr;
  const int32_t* lowest = nullptr;
  int32_t first_key = 0;
};

// One step of the online softmax over `lanes` (a multiple of 16) lanes: p becomes
// exp2(scale * s - shift), is added to sum, and out is brought to the shift when that moves. The
// shift stands for the maximum, but follows it only when sums would grow too large otherwise: which
// shift is taken depends on the scores alone, and results hardly depend on it.
struct AttentionSoftmax {
  float* s;     // [keys, 32]
  uint32_t* p;  // paired right operand of depth padded_keys; may be s where units are f32
  int64_t keys, padded_keys, lanes;
  float scale;  // scale of the scores times log2(e)
  AttentionMask mask;
  float* shift;  // [lanes], in base 2; start from kNoShift
  float* sum;    // [lanes]
  float* out;    // [out_rows, 32]
  int64_t out_rows;
};
// Instead of -inf, so that differences of two of them are 0.
constexpr float kNoShift = -1e30f;

// A panel of queries with a key tile, forward: s = K Q^T, the step of softmax, out += V^T p.
struct AttentionPanel {
  AttentionProduct scores;
  AttentionSoftmax softmax;
  AttentionProduct values;
};

// P = exp2(scale * S - lse), dS = P (dP - delta). Lanes come in multiples of 16, of 32 where units
// are pairs.
struct AttentionGradient {
  float* s;   // [keys, 32]
  float* dp;  // [keys, 32]
  int64_t keys, padded_keys, lanes;
  float scale;  // scale of the scores times log2(e)
  AttentionMask mask;
  const float* lse;  // [lanes], times log2(e); +inf: P is 0
  const float* delta;
  // Left operands of depth lanes, rows row_units apart; may be s and dp where units are f32.
  uint32_t* p_rows;
  uint32_t* ds_rows;
  int64_t row_units;
  // Right operand of depth padded_keys; null where units are f32: ds_rows serves.
  uint32_t* ds_paired;
};

// A panel of queries with a key tile, backward: s = K Q^T, dp = V dO^T, the gradient, and
// dq += K^T dS. dv += P dO and dk += dS Q follow for several panels at once.
struct AttentionGradientPanel {
  AttentionProduct scores, dprobabilities;
  AttentionGradient gradient;
  AttentionProduct dq;
};

// A few query rows against keys where they lie (decode). T is float, or uint16_t for bf16. While
// key n is used the row ahead + n * ahead_stride is fetched, so that memory and arithmetic overlap
// (ahead null: nothing is).
template <typename T>
struct AttentionStream {
  const T* data;  // row n at data + n * stride
  int64_t stride, keys;
  const T* ahead;
  int64_t ahead_stride;
};
template <typename T>
struct AttentionStreamKernels {
  // s[r * s_row + n] = q[r] . k[n] for r < rows and n < keys; q is [rows, head_dim].
  void (*scores)(float* s, int64_t s_row, const T* q, int64_t rows, const AttentionStream<T>& k,
                 int64_t head_dim);
  // out[r] += sum over n of p[r * p_row + n] v[n]; out is [rows, head_dim].
  void (*values)(float* out, const float* p, int64_t p_row, int64_t rows,
                 const AttentionStream<T>& v, int64_t head_dim);
};

struct AttentionKernels {
  bool bf16_units;         // else f32
  int64_t depth_multiple;  // elements: depths are padded with zeros to a multiple of this
  bool rows_only;          // left operands must have a_depth == 1: pair_columns() makes them

  // Called by a thread before and after its products (to set up tile registers); may be null.
  void (*begin)();
  void (*end)();

  void (*forward)(const AttentionPanel& panel);
  // Where not null, in place of forward(): panels with key tiles follow one another, and a call
  // does the scores of one, the softmax of the one before it and the values of the one before that;
  // null stands for none. Neighbours have scores and probabilities of their own.
  void (*turn)(const AttentionPanel* next, const AttentionPanel* now, const AttentionPanel* last);
  void (*backward)(const AttentionGradientPanel& panel);
  // Where not null, in place of backward(): does all of a panel but dq, and dq of the panel before.
  void (*backward_turn)(const AttentionGradientPanel* now, const AttentionGradientPanel* last);
  void (*product)(const AttentionProduct& product);

  // dst[c * dst_row + r] = src[r * src_row + c]; rows and cols are multiples of 16.
  void (*transpose)(uint32_t* dst, int64_t dst_row, const uint32_t* src, int64_t src_row,
                    int64_t rows, int64_t cols);
  // dst unit (i, c) = (src[2i][c], src[2i + 1][c]); rows of bf16; rows even, cols a multiple of 16.
  void (*pair_rows)(uint32_t* dst, int64_t dst_row, const uint16_t* src, int64_t src_row,
                    int64_t rows, int64_t cols);
  // dst unit (c, i) = (src[2i][c], src[2i + 1][c]); rows of bf16; rows a multiple of 32, cols
  // of 16. Null unless rows_only.
  void (*pair_columns)(uint32_t* dst, int64_t dst_row, const uint16_t* src, int64_t src_row,
                       int64_t rows, int64_t cols);
  // n rows of `cols` numbers (a multiple of 16) into `rows` layout; columns from cols to dst_row,
  // in elements, become 0.
  void (*load_f32)(uint32_t* dst, int64_t dst_row, const float* src, int64_t src_row, int64_t n,
                   int64_t cols);
  void (*load_bf16)(uint32_t* dst, int64_t dst_row, const uint16_t* src, int64_t src_row, int64_t n,
                    int64_t cols);
  void (*bf16_to_float)(float* dst, const uint16_t* src, int64_t n);
  void (*scale_to_float)(float* dst, const float* src, float scale, int64_t n);
  void (*scale_to_bf16)(uint16_t* dst, const float* src, float scale, int64_t n);
  void (*add)(float* dst, const float* src, int64_t n);
  float (*dot)(const float* a, const float* b, int64_t n);
  // x[n] becomes exp2(scale * x - shift); returns the sum. n is a multiple of 16.
  float (*exponentials)(float* x, float shift, float scale, int64_t n);
  float (*maximum)(const float* x, int64_t n);
  AttentionStreamKernels<float> stream_f32;
  AttentionStreamKernels<uint16_t> stream_bf16;
};

extern const AttentionKernels kAttentionPortable, kAttentionAvx2, kAttentionAvx512,
    kAttentionAvx512Bf16, kAttentionAmx;

}  // namespace longgen
