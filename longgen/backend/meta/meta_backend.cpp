// Runs nothing, counts everything: FLOPs of products and attention (two a multiply-accumulate),
// bytes of all operands, calls. Tensors may have null data; shapes and dtypes are still checked.
#include <algorithm>

#include "longgen/backend/backend.h"

namespace longgen {
namespace {

class Meta : public MetaBackend {
 public:
  Meta(DType activation, const Backend* like) : activation_(activation), like_(like) {}

  const MetaCounts& counts() const override { return counts_; }
  void reset() override { counts_ = {}; }

  std::string description() const override {
    return fmt::format("meta ({}, counts only)", dtype_name(activation_));
  }
  bool supports(DType activation) const override { return activation == activation_; }
  bool supports_scheme(WeightScheme) const override { return true; }
  MemoryResource& memory() override { return memory_; }

  void zero(const Tensor& x) override { call({&x}); }
  void copy(const Tensor& dst, const Tensor& src) override {
    same_shape("copy", dst, src);
    call({&dst, &src});
  }

  void embedding_forward(const Tensor& out, const WeightView& table, const Tensor& ids,
                         bool accumulate) override {
    call({&out, &ids});
    counts_.bytes_moved += ids.dim(0) * (table.data.bytes() / table.n());  // a row for each of out
    if (accumulate) counts_.bytes_moved += out.bytes();
  }
  void embedding_backward(const Tensor&, const Tensor& dout, const Tensor& ids) override {
    call({&dout, &dout, &dout, &ids});
  }

  void norm_forward(NormKind, const Tensor& out, const Tensor& stats, const Tensor& x,
                    const Tensor& weight, const Tensor& bias, double) override {
    same_shape("norm", out, x);
    call({&out, &stats, &x, &weight, &bias});
  }
  void norm_backward(NormKind, const Tensor& dx, bool accumulate_dx, const Tensor& dweight,
                     const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& stats,
                     const Tensor& weight) override {
    same_shape("norm backward", dx, x);
    same_shape("norm backward", dy, x);
    call({&dx, &dweight, &dbias, &dy, &x, &stats, &weight});
    if (accumulate_dx) counts_.bytes_moved += dx.bytes();
  }

  void linear_forward(const Tensor& y, const Tensor& x, const WeightView& w, const Tensor& bias,
                      bool accumulate) override {
    product(y.dim(0), w.n(), w.k(), y, x);
    call({&y, &x, &w.data, &bias});
    if (accumulate) counts_.bytes_moved += y.bytes();
  }
  void linear_backward_input(const Tensor& dx, const Tensor& dy, const WeightView& w,
                             bool accumulate) override {
    product(dy.dim(0), w.n(), w.k(), dy, dx);
    call({&dx, &dy, &w.data});
    if (accumulate) counts_.bytes_moved += dx.bytes();
  }
  void linear_backward_weight(const Tensor& dw, const Tensor& dy, const Tensor& x) override {
    product(dy.dim(0), dw.dim(0), dw.dim(1), dy, x);
    call({&dw, &dw, &dy, &x});
  }
  void linear_backward_bias(const Tensor& dbias, const Tensor& dy) override {
    call({&dbias, &dbias, &dy});
  }

  void rope(const Tensor& x, const Tensor& table, const Tensor& positions, bool) override {
    call({&x, &x, &positions});
    counts_.bytes_moved += x.dim(0) * table.dim(1) * dtype_size(table.dtype());
  }

  int64_t attention_forward_workspace_bytes(const AttentionShape& shape) const override {
    return like_ == nullptr ? 0 : like_->attention_forward_workspace_bytes(shape);
  }
  int64_t attention_backward_workspace_bytes(const AttentionShape& shape) const override {
    return like_ == nullptr ? 0 : like_->attention_backward_workspace_bytes(shape);
  }

  void attention_forward(const AttentionForward& a) override {
    call({&a.out, &a.lse, &a.q});
    const int64_t group = a.q.dim(1) / a.kv_heads, dim = a.q.dim(2);
    for (const AttentionSequence& s : a.sequences) {
      const int64_t begin = s.first_position, end = begin + s.row_count;
      attend(*a.pattern, begin, end, a.kv_head_begin, a.kv_heads, 4.0 * group * dim);
      for (int64_t head = 0; head < a.kv_heads && end > 0; ++head) {
        // Every key and value that some query of the rows sees, once.
        const int64_t tokens = keys_read(*a.pattern, begin, end, a.kv_head_begin + head);
        counts_.bytes_moved += 2 * tokens * dim * dtype_size(a.kv_dtype);
      }
    }
  }
  void attention_backward(const AttentionBackward& a) override {
    call({&a.dq, &a.dk, &a.dv, &a.dout, &a.out, &a.q, &a.k, &a.v, &a.lse});
    const int64_t kv_heads = a.k.dim(1), group = a.q.dim(1) / kv_heads;
    for (const DocumentRange& document : a.documents) {
      // q.k again, dout.v, and the sums into dq, dk and dv: five products where forward has two.
      attend(*a.pattern, 0, document.row_count, a.kv_head_begin, kv_heads,
             10.0 * group * a.q.dim(2));
    }
  }
  void kv_write(const KvView&, DType kv_dtype, int64_t, int64_t, const Tensor& k,
                const Tensor& v) override {
    call({&k, &v});
    counts_.bytes_moved += (k.numel() + v.numel()) * dtype_size(kv_dtype);
  }

  void activation_forward(Activation, const Tensor& out, const Tensor& gate,
                          const Tensor& up) override {
    same_shape("activation", out, gate);
    call({&out, &gate, &up});
  }
  void activation_backward(Activation, const Tensor& dgate, const Tensor& dup, const Tensor& dout,
                           const Tensor& gate, const Tensor& up) override {
    same_shape("activation backward", dgate, gate);
    same_shape("activation backward", dout, gate);
    call({&dgate, &dup, &dout, &gate, &up});
  }
  void add(const Tensor& out, const Tensor& a, const Tensor& b) override {
    same_shape("add", out, a);
    same_shape("add", out, b);
    call({&out, &a, &b});
  }

  void softmax_cross_entropy(const Tensor& losses, const Tensor& dlogits, const Tensor& logits,
                             const Tensor& labels, double) override {
    call({&losses, &dlogits, &logits, &labels});
  }

  double sum_of_squares(const Tensor& x) override {
    call({&x});
    return 0;
  }
  void adamw_step(const Tensor& weights, const Tensor& master, const Tensor& m, const Tensor& v,
                  const Tensor& gradient, const AdamW&) override {
    // Read and written, except the gradient (read) and weights of their own (written).
    call({&master, &master, &m, &m, &v, &v, &gradient});
    if (weights.raw() != master.raw() || weights.dtype() != master.dtype()) {
      counts_.bytes_moved += weights.bytes();
    }
  }
  void adamw_step_bf16(const Tensor& weights, const Tensor& m, const Tensor& v,
                       const Tensor& gradient, const AdamW&, const StochasticRounding&) override {
    call({&weights, &weights, &m, &m, &v, &v, &gradient});
  }

 private:
  static void same_shape(const char* what, const Tensor& a, const Tensor& b) {
    const auto s = a.shape(), t = b.shape();
    require(std::equal(s.begin(), s.end(), t.begin(), t.end()), "{}: {} and {}", what,
            a.shape_string(), b.shape_string());
  }

  void call(std::initializer_list<const Tensor*> operands) {
    ++counts_.calls;
    for (const Tensor* x : operands) {
      if (x->defined()) counts_.bytes_moved += x->bytes();
    }
  }

  // out [rows, n], in [rows, k], a weight of [n, k].
  void product(int64_t rows, int64_t n, int64_t k, const Tensor& out, const Tensor& in) {
    require(out.dim(0) == rows && out.dim(1) == n && in.dim(0) == rows && in.dim(1) == k,
            "product of {} and {} with a weight of [{}, {}]", out.shape_string(), in.shape_string(),
            n, k);
    const double flops =
        2.0 * static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(k);
    counts_.flops += flops;
    counts_.dense_flops += flops;
  }

  void attend(const AttentionPattern& pattern, int64_t begin, int64_t end, int64_t first_head,
              int64_t heads, double flops_per_pair) {
    const AttentionPattern full = AttentionPattern::full(pattern.block_size);
    for (int64_t head = first_head; head < first_head + heads; ++head) {
      counts_.flops += flops_per_pair * static_cast<double>(pattern.pairs(begin, end, head));
      counts_.dense_flops += flops_per_pair * static_cast<double>(full.pairs(begin, end, head));
    }
  }

  static int64_t keys_read(const AttentionPattern& pattern, int64_t begin, int64_t end,
                           int64_t kv_head) {
    if (begin == end) return 0;
    const int64_t size = pattern.block_size, last = (end - 1) / size;
    int64_t blocks = 0;
    for (const BlockRange& range : pattern.key_blocks(begin / size, last + 1, kv_head)) {
      blocks += range.count();
    }
    return blocks * size - ((last + 1) * size - end);  // the last block is seen, perhaps half full
  }

  DType activation_;
  const Backend* like_;
  NoMemory memory_;
  MetaCounts counts_;
};

}  // namespace

std::unique_ptr<MetaBackend> make_meta_backend(DType activation, const Backend* like) {
  return std::make_unique<Meta>(activation, like);
}

}  // namespace longgen
