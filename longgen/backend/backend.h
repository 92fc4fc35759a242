// The one list of what a device must be able to do.
//
// Conventions for every operation:
//  - "x [T, d]" gives the shape; all activations of one call share one dtype A, which is one that
//    supports() accepts: f64 on `reference`; f32 and bf16 on `cpu`. Accumulators, statistics,
//    weight gradients and log-sum-exp have accumulation_dtype(A) ("acc"): f64 for f64, else f32.
//  - Sums are formed in acc, in an order that depends only on shapes and the number of threads.
//  - A shape, dtype or pattern that a backend cannot do is an Error that names it; nothing is ever
//    downgraded to something else.
//  - Rows may be strided (Tensor), the last dimension is contiguous. Outputs are overwritten
//    unless the name says accumulate or "+=".
//  - No operation allocates device memory: what it needs beyond its arguments is passed as
//    `workspace` (bytes from the matching *_workspace_bytes, 64-byte aligned).
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "longgen/backend/weight_scheme.h"
#include "longgen/pattern/pattern.h"
#include "longgen/tensor/arena.h"
#include "longgen/tensor/tensor.h"

namespace longgen {

enum class NormKind : uint8_t { kRms, kLayer };
enum class Activation : uint8_t { kSilu, kGelu, kGeluTanh, kRelu };

// A matrix [n, k], as in y = x w^T.
struct WeightView {
  WeightView() = default;
  // A plain one. Implicit: most tables and weights are.
  WeightView(const std::convertible_to<Tensor> auto& plain) : data(plain) {}
  // A quantised one: `bytes` u8 [quantized::weight_bytes(scheme, n, k)], laid out as
  // weight_scheme.h says.
  WeightView(const Tensor& bytes, WeightScheme s, int64_t n, int64_t k)
      : data(bytes), scheme(s), shape{n, k} {}

  bool is_plain() const { return scheme == WeightScheme::kPlain; }
  int64_t n() const { return is_plain() ? data.dim(0) : shape[0]; }
  int64_t k() const { return is_plain() ? data.dim(1) : shape[1]; }

  Tensor data;
  WeightScheme scheme = WeightScheme::kPlain;
  std::array<int64_t, 2> shape{};  // of a quantised one
};

// The keys and values of one document (or sequence) for a range of KV heads. Logical block b holds
// positions [b * block_size, (b + 1) * block_size) of the document and lives in page
// block_table[b] (-1: released; reading it is an error of the caller), or in page b when
// block_table is null. Element (page, head, token, channel) is at
//     page * page_stride + head * head_stride + token * token_stride + channel   (elements).
// A contiguous [T, heads, head_dim] tensor is page_stride = block_size * token_stride.
struct KvView {
  void* keys = nullptr;  // rotated keys
  void* values = nullptr;
  int64_t page_stride = 0, head_stride = 0, token_stride = 0;
  const int32_t* block_table = nullptr;
  int64_t block_table_size = 0;  // entries; 0 when block_table is null
  int64_t length = 0;            // keys at positions [0, length) have been written
};

// Rows [row_begin, row_begin + row_count) of q and out are the queries at positions
// first_position, first_position + 1, ... of the document in `kv`.
// first_position + row_count <= kv.length.
struct AttentionSequence {
  int64_t row_begin = 0, row_count = 0;
  int64_t first_position = 0;
  KvView kv;
};

// Rows of a packed sequence that form one document; positions restart at its first row.
struct DocumentRange {
  int64_t row_begin = 0, row_count = 0;
};

struct AttentionShape {
  int64_t rows = 0;  // queries in the call
  int64_t q_heads = 0, kv_heads = 0, head_dim = 0;
  DType dtype = DType::kF32;
};

struct AttentionForward {
  Tensor out;  // [T, q_heads, head_dim]
  Tensor lse;  // acc [q_heads, T] natural log of the sum of exp(scale q.k), or undefined
  Tensor q;    // [T, q_heads, head_dim], rotated
  std::span<const AttentionSequence>
      sequences;  // disjoint rows; rows of no sequence are left alone
  DType kv_dtype = DType::kF32;
  int64_t kv_heads =
      0;  // q_heads is a multiple; query head h uses KV head h / (q_heads / kv_heads)
  int64_t kv_head_begin = 0;  // global index of the first KV head (for pattern.offset)
  const AttentionPattern* pattern = nullptr;
  double scale = 0;  // usually 1 / sqrt(head_dim)
  std::span<std::byte> workspace;
};

struct AttentionBackward {
  Tensor dq;            // [T, q_heads, head_dim]
  Tensor dk, dv;        // [T, kv_heads, head_dim]; summed over the query heads of the group
  Tensor dout, out, q;  // [T, q_heads, head_dim]
  Tensor k, v;          // [T, kv_heads, head_dim]
  Tensor lse;           // acc [q_heads, T]
  std::span<const DocumentRange> documents;  // disjoint; gradients of rows of no document become 0
  int64_t kv_head_begin = 0;
  const AttentionPattern* pattern = nullptr;
  double scale = 0;
  std::span<std::byte> workspace;
};

struct AdamW {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  int64_t step = 1;           // 1 for the first update (bias correction)
  double gradient_scale = 1;  // gradients are multiplied by it first (clipping)
};

// Which random numbers round a tensor's elements; see backend/stochastic_rounding.h.
struct StochasticRounding {
  uint64_t seed = 0, stream = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // For people: "cpu (avx512-bf16, 2 threads)".
  virtual std::string description() const = 0;
  virtual bool supports(DType activation) const = 0;
  // Whether weights may be stored so.
  virtual bool supports_scheme(WeightScheme scheme) const { return scheme == WeightScheme::kPlain; }
  // The dtype that commands take when none is asked for: the fastest that the device computes in.
  virtual DType preferred_dtype() const { return DType::kF32; }
  virtual MemoryResource& memory() = 0;
  // Returns when all that was queued has run: for those who measure.
  virtual void synchronize() {}

  // --- moving ---
  virtual void zero(const Tensor& x) = 0;
  // Same shape; converts between f64, f32, bf16 and f16 (round to nearest even).
  virtual void copy(const Tensor& dst, const Tensor& src) = 0;
  // Host memory that copy_beside() reaches at full speed.
  virtual MemoryResource& offload_memory() { return memory(); }
  // dst = src, alike and contiguous, one in memory(), the other in offload_memory(): begins when
  // what is queued now has run, and runs beside what is queued later. Such copies keep their order.
  // Returns a number for wait_for_copy(). Neither side may be written before that (nor dst read).
  virtual int64_t copy_beside(const Tensor& dst, const Tensor& src) {
    copy(dst, src);
    return 0;
  }
  // What is queued from now on runs after that copy and those before it.
  virtual void wait_for_copy(int64_t) {}

  // --- embedding ---
  // out [T, d] = table [V, d] rows ids (i32 [T]); an id outside [0, V) is an Error. A quantised
  // table gives its values rounded to out's dtype. accumulate adds to out (for learned positions).
  virtual void embedding_forward(const Tensor& out, const WeightView& table, const Tensor& ids,
                                 bool accumulate) = 0;
  // dtable acc [V, d] += dout [T, d] scattered; each row's sum runs in ascending T.
  virtual void embedding_backward(const Tensor& dtable, const Tensor& dout, const Tensor& ids) = 0;

  // --- normalisation over the last dimension; x and out [T, d] or [T, heads, d] ---
  // kRms: y = x / sqrt(mean(x^2) + eps) * weight (+ bias); kLayer: (x - mean) / sqrt(var + eps) ...
  // stats acc [rows, 2] = (mean, reciprocal deviation) per row (mean 0 for kRms); bias may be
  // undefined. stats may be undefined when no backward follows.
  virtual void norm_forward(NormKind kind, const Tensor& out, const Tensor& stats, const Tensor& x,
                            const Tensor& weight, const Tensor& bias, double eps) = 0;
  // dx = gradient (+= when accumulate_dx), dweight and dbias acc [d] += (either may be undefined).
  // dx may be the same memory as dy when accumulate_dx is false.
  virtual void norm_backward(NormKind kind, const Tensor& dx, bool accumulate_dx,
                             const Tensor& dweight, const Tensor& dbias, const Tensor& dy,
                             const Tensor& x, const Tensor& stats, const Tensor& weight) = 0;

  // --- products ---
  // y [T, n] = x [T, k] w^T (+ bias [n]) (+ y when accumulate). y has dtype A or acc. Where w is
  // quantised, a backend may round x to 8 bits in blocks of 32 (with the block's greatest magnitude
  // as 127) or to bf16; quantised weights have no backward.
  virtual void linear_forward(const Tensor& y, const Tensor& x, const WeightView& w,
                              const Tensor& bias, bool accumulate) = 0;
  // y = base + x w^T (+ bias): linear_forward where a residual stream goes on in other memory. base
  // is like y, and may be it.
  virtual void linear_forward_onto(const Tensor& y, const Tensor& base, const Tensor& x,
                                   const WeightView& w, const Tensor& bias) {
    if (y.raw() != base.raw()) copy(y, base);
    linear_forward(y, x, w, bias, /*accumulate=*/true);
  }
  // dx [T, k] = dy [T, n] w (+ dx when accumulate). dx has dtype A or acc.
  virtual void linear_backward_input(const Tensor& dx, const Tensor& dy, const WeightView& w,
                                     bool accumulate) = 0;
  // dw acc [n, k] += dy^T x.
  virtual void linear_backward_weight(const Tensor& dw, const Tensor& dy, const Tensor& x) = 0;
  // dbias acc [n] += column sums of dy [T, n].
  virtual void linear_backward_bias(const Tensor& dbias, const Tensor& dy) = 0;

  // --- rotary embedding, in place, x [T, heads, head_dim] ---
  // The first 2 * half channels rotate in Hugging Face order (channel c pairs with c + half):
  // table f32 [positions, 2 * half] holds cos in the first half and sin in the second.
  // positions i32 [T], each inside the table. inverse rotates back (backward).
  virtual void rope(const Tensor& x, const Tensor& table, const Tensor& positions,
                    bool inverse) = 0;

  // --- attention ---
  virtual int64_t attention_forward_workspace_bytes(const AttentionShape& shape) const = 0;
  virtual void attention_forward(const AttentionForward& args) = 0;
  virtual int64_t attention_backward_workspace_bytes(const AttentionShape& shape) const = 0;
  virtual void attention_backward(const AttentionBackward& args) = 0;
  // Writes keys and values (rotated) [n, kv_heads, head_dim] to positions first_position ... of a
  // view whose pages exist. kv.length is not read.
  virtual void kv_write(const KvView& kv, DType kv_dtype, int64_t block_size,
                        int64_t first_position, const Tensor& k, const Tensor& v) = 0;

  // --- pointwise ---
  // out = act(gate) * up when up is defined, else act(gate). All [T, f].
  virtual void activation_forward(Activation act, const Tensor& out, const Tensor& gate,
                                  const Tensor& up) = 0;
  // dgate, dup from dout; dup undefined exactly when up is. Outputs may be the memory of dout, gate
  // or up.
  virtual void activation_backward(Activation act, const Tensor& dgate, const Tensor& dup,
                                   const Tensor& dout, const Tensor& gate, const Tensor& up) = 0;
  // activation_forward into out, and activation_backward: in one, where that reads less. out is
  // memory of its own.
  virtual void activation_both(Activation act, const Tensor& out, const Tensor& dgate,
                               const Tensor& dup, const Tensor& dout, const Tensor& gate,
                               const Tensor& up) {
    activation_forward(act, out, gate, up);
    activation_backward(act, dgate, dup, dout, gate, up);
  }
  // out = a + b; out may be a or b.
  virtual void add(const Tensor& out, const Tensor& a, const Tensor& b) = 0;

  // --- loss ---
  // losses acc [T] = -log softmax(logits)[label], 0 where labels (i32 [T]) is -1.
  // dlogits (dtype A [T, V], may be undefined) = (softmax - onehot) * scale, 0 rows where -1.
  // logits acc [T, V].
  virtual void softmax_cross_entropy(const Tensor& losses, const Tensor& dlogits,
                                     const Tensor& logits, const Tensor& labels, double scale) = 0;

  // --- optimizer ---
  // Sum of squares in f64, fixed order.
  virtual double sum_of_squares(const Tensor& x) = 0;
  // Decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101). master, m, v, gradient: acc,
  // contiguous, same numel; weights (dtype A, may be the master itself) receives the rounded
  // master.
  virtual void adamw_step(const Tensor& weights, const Tensor& master, const Tensor& m,
                          const Tensor& v, const Tensor& gradient, const AdamW& args) = 0;
  // The same without a master: weights, m and v are bf16, contiguous, rounded stochastically after
  // arithmetic in acc; gradient acc. The update is formed from the moments before their rounding.
  virtual void adamw_step_bf16(const Tensor& weights, const Tensor& m, const Tensor& v,
                               const Tensor& gradient, const AdamW& args,
                               const StochasticRounding& rounding) = 0;
};

// fp64 loops, one thread: the truth that the others are tested against.
std::unique_ptr<Backend> make_reference_backend();

// Instruction sets of the cpu backend, best first. kAuto picks the best that the processor and the
// system have. LONGGEN_CPU=portable|avx2|avx512|avx512bf16|amx forces one (an Error when absent).
enum class CpuIsa : uint8_t { kAuto, kPortable, kAvx2, kAvx512, kAvx512Bf16, kAmx };
// threads 0: all that the process may use.
std::unique_ptr<Backend> make_cpu_backend(int threads, CpuIsa isa = CpuIsa::kAuto);

// One Hopper GPU: f32 and bf16. An Error without such a device, and in a build without CUDA.
std::unique_ptr<Backend> make_cuda_backend(int device);

// Runs nothing; counts. Tensors may have null data.
struct MetaCounts {
  double flops = 0;         // by unmasked pairs
  double dense_flops = 0;   // the same with every attention full causal
  int64_t bytes_moved = 0;  // each operand once
  int64_t calls = 0;
};
class MetaBackend : public Backend {
 public:
  virtual const MetaCounts& counts() const = 0;
  virtual void reset() = 0;
};
// Accepts `activation` only; workspace sizes are those of `like` (may be null: 0).
std::unique_ptr<MetaBackend> make_meta_backend(DType activation, const Backend* like);

}  // namespace longgen
