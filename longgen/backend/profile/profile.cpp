#include "longgen/backend/profile/profile.h"

#include <algorithm>
#include <map>
#include <utility>

#include "longgen/base/system.h"

namespace longgen {
namespace {

// The table as embedding_forward takes it.
template <typename Table>
Table table_of(void (Backend::*)(const Tensor&, const Table&, const Tensor&, bool));
using EmbeddingTable = decltype(table_of(&Backend::embedding_forward));

std::string product_shape(int64_t rows, int64_t n, int64_t k) {
  return fmt::format("{} x {} x {}", rows, n, k);
}

std::string attention_shape(const Tensor& q, int64_t kv_heads, const AttentionPattern& pattern) {
  return fmt::format("{} x {}:{} x {}, {}", q.dim(0), q.dim(1), kv_heads, q.dim(2),
                     pattern.is_full() ? "full" : "sparse");
}

std::string line(const ProfileEntry& e, double total) {
  const double share = total > 0 ? 100 * e.seconds / total : 0;
  const double rate = e.seconds > 0 ? 1 / e.seconds : 0;
  return fmt::format("{:<22} {:<28} {:>9.4f} {:>5.1f} % {:>7} {:>9.1f} {:>8.2f}\n", e.operation,
                     e.shape, e.seconds, share, e.calls, e.flops * rate / 1e9,
                     static_cast<double>(e.bytes_moved) * rate / 1e9);
}

class Profile : public ProfilingBackend {
 public:
  explicit Profile(Backend& inner) : inner_(inner) {}

  std::vector<ProfileEntry> entries() const override {
    std::vector<ProfileEntry> all;
    for (const auto& [key, entry] : entries_) all.push_back(entry);
    std::stable_sort(all.begin(), all.end(), [](const ProfileEntry& a, const ProfileEntry& b) {
      return a.seconds > b.seconds;
    });
    return all;
  }
  void reset() override { entries_.clear(); }
  std::string table(double wall_seconds) const override;

  std::string description() const override { return inner_.description(); }
  bool supports(DType activation) const override { return inner_.supports(activation); }
  bool supports_scheme(WeightScheme scheme) const override {
    return inner_.supports_scheme(scheme);
  }
  DType preferred_dtype() const override { return inner_.preferred_dtype(); }
  MemoryResource& memory() override { return inner_.memory(); }
  void synchronize() override { inner_.synchronize(); }

  void zero(const Tensor& x) override {
    run("zero", x.shape_string(), [&](Backend& b) { b.zero(x); });
  }
  void copy(const Tensor& dst, const Tensor& src) override {
    run("copy", dst.shape_string(), [&](Backend& b) { b.copy(dst, src); });
  }
  // Not timed: they run beside what is.
  MemoryResource& offload_memory() override { return inner_.offload_memory(); }
  int64_t copy_beside(const Tensor& dst, const Tensor& src) override {
    return inner_.copy_beside(dst, src);
  }
  void wait_for_copy(int64_t copy) override { inner_.wait_for_copy(copy); }

  void embedding_forward(const Tensor& out, const EmbeddingTable& table, const Tensor& ids,
                         bool accumulate) override {
    run("embedding_forward", out.shape_string(),
        [&](Backend& b) { b.embedding_forward(out, table, ids, accumulate); });
  }
  void embedding_backward(const Tensor& dtable, const Tensor& dout, const Tensor& ids) override {
    run("embedding_backward", dout.shape_string(),
        [&](Backend& b) { b.embedding_backward(dtable, dout, ids); });
  }

  void norm_forward(NormKind kind, const Tensor& out, const Tensor& stats, const Tensor& x,
                    const Tensor& weight, const Tensor& bias, double eps) override {
    run("norm_forward", x.shape_string(),
        [&](Backend& b) { b.norm_forward(kind, out, stats, x, weight, bias, eps); });
  }
  void norm_backward(NormKind kind, const Tensor& dx, bool accumulate_dx, const Tensor& dweight,
                     const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& stats,
                     const Tensor& weight) override {
    run("norm_backward", x.shape_string(), [&](Backend& b) {
      b.norm_backward(kind, dx, accumulate_dx, dweight, dbias, dy, x, stats, weight);
    });
  }

  void linear_forward(const Tensor& y, const Tensor& x, const WeightView& w, const Tensor& bias,
                      bool accumulate) override {
    run("linear_forward", product_shape(x.dim(0), y.dim(1), x.dim(1)),
        [&](Backend& b) { b.linear_forward(y, x, w, bias, accumulate); });
  }
  void linear_forward_onto(const Tensor& y, const Tensor& base, const Tensor& x,
                           const WeightView& w, const Tensor& bias) override {
    run("linear_forward", product_shape(x.dim(0), y.dim(1), x.dim(1)),
        [&](Backend& b) { b.linear_forward_onto(y, base, x, w, bias); });
  }
  void linear_backward_input(const Tensor& dx, const Tensor& dy, const WeightView& w,
                             bool accumulate) override {
    run("linear_backward_input", product_shape(dy.dim(0), dy.dim(1), dx.dim(1)),
        [&](Backend& b) { b.linear_backward_input(dx, dy, w, accumulate); });
  }
  void linear_backward_weight(const Tensor& dw, const Tensor& dy, const Tensor& x) override {
    run("linear_backward_weight", product_shape(x.dim(0), dw.dim(0), dw.dim(1)),
        [&](Backend& b) { b.linear_backward_weight(dw, dy, x); });
  }
  void linear_backward_bias(const Tensor& dbias, const Tensor& dy) override {
    run("linear_backward_bias", dy.shape_string(),
        [&](Backend& b) { b.linear_backward_bias(dbias, dy); });
  }

  void rope(const Tensor& x, const Tensor& table, const Tensor& positions, bool inverse) override {
    run("rope", x.shape_string(), [&](Backend& b) { b.rope(x, table, positions, inverse); });
  }

  int64_t attention_forward_workspace_bytes(const AttentionShape& shape) const override {
    return inner_.attention_forward_workspace_bytes(shape);
  }
  int64_t attention_backward_workspace_bytes(const AttentionShape& shape) const override {
    return inner_.attention_backward_workspace_bytes(shape);
  }
  void attention_forward(const AttentionForward& args) override {
    run("attention_forward", attention_shape(args.q, args.kv_heads, *args.pattern),
        [&](Backend& b) { b.attention_forward(args); });
  }
  void attention_backward(const AttentionBackward& args) override {
    run("attention_backward", attention_shape(args.q, args.k.dim(1), *args.pattern),
        [&](Backend& b) { b.attention_backward(args); });
  }
  void kv_write(const KvView& kv, DType kv_dtype, int64_t block_size, int64_t first_position,
                const Tensor& k, const Tensor& v) override {
    run("kv_write", k.shape_string(),
        [&](Backend& b) { b.kv_write(kv, kv_dtype, block_size, first_position, k, v); });
  }

  void activation_forward(Activation act, const Tensor& out, const Tensor& gate,
                          const Tensor& up) override {
    run("activation_forward", gate.shape_string(),
        [&](Backend& b) { b.activation_forward(act, out, gate, up); });
  }
  void activation_backward(Activation act, const Tensor& dgate, const Tensor& dup,
                           const Tensor& dout, const Tensor& gate, const Tensor& up) override {
    run("activation_backward", gate.shape_string(),
        [&](Backend& b) { b.activation_backward(act, dgate, dup, dout, gate, up); });
  }
  void activation_both(Activation act, const Tensor& out, const Tensor& dgate, const Tensor& dup,
                       const Tensor& dout, const Tensor& gate, const Tensor& up) override {
    run("activation_both", gate.shape_string(),
        [&](Backend& b) { b.activation_both(act, out, dgate, dup, dout, gate, up); });
  }
  void add(const Tensor& out, const Tensor& a, const Tensor& b) override {
    run("add", a.shape_string(), [&](Backend& backend) { backend.add(out, a, b); });
  }

  void softmax_cross_entropy(const Tensor& losses, const Tensor& dlogits, const Tensor& logits,
                             const Tensor& labels, double scale) override {
    run("softmax_cross_entropy", logits.shape_string(),
        [&](Backend& b) { b.softmax_cross_entropy(losses, dlogits, logits, labels, scale); });
  }

  double sum_of_squares(const Tensor& x) override {
    double sum = 0;
    run("sum_of_squares", x.shape_string(), [&](Backend& b) { sum = b.sum_of_squares(x); });
    return sum;
  }
  void adamw_step(const Tensor& weights, const Tensor& master, const Tensor& m, const Tensor& v,
                  const Tensor& gradient, const AdamW& args) override {
    run("adamw_step", weights.shape_string(),
        [&](Backend& b) { b.adamw_step(weights, master, m, v, gradient, args); });
  }
  void adamw_step_bf16(const Tensor& weights, const Tensor& m, const Tensor& v,
                       const Tensor& gradient, const AdamW& args,
                       const StochasticRounding& rounding) override {
    run("adamw_step_bf16", weights.shape_string(),
        [&](Backend& b) { b.adamw_step_bf16(weights, m, v, gradient, args, rounding); });
  }

 private:
  // call(backend), first with one that counts, then with the one that is timed.
  template <typename Call>
  void run(const char* operation, std::string shape, const Call& call) {
    counter_->reset();
    call(*counter_);
    const double start = monotonic_seconds();
    call(inner_);
    inner_.synchronize();
    const double seconds = monotonic_seconds() - start;
    ProfileEntry& entry = entries_[{operation, shape}];
    entry.operation = operation;
    entry.shape = std::move(shape);
    ++entry.calls;
    entry.seconds += seconds;
    entry.flops += counter_->counts().flops;
    entry.dense_flops += counter_->counts().dense_flops;
    entry.bytes_moved += counter_->counts().bytes_moved;
  }

  Backend& inner_;
  // What it accepts does not matter: it only counts.
  std::unique_ptr<MetaBackend> counter_ = make_meta_backend(DType::kF32, nullptr);
  std::map<std::pair<std::string, std::string>, ProfileEntry> entries_;
};

std::string Profile::table(double wall_seconds) const {
  const auto all = entries();
  ProfileEntry total{.operation = "all operations"};
  for (const ProfileEntry& e : all) {
    total.calls += e.calls;
    total.seconds += e.seconds;
    total.flops += e.flops;
    total.bytes_moved += e.bytes_moved;
  }
  const double whole = std::max(total.seconds, wall_seconds);
  std::string text = fmt::format("{:<22} {:<28} {:>9} {:>7} {:>7} {:>9} {:>8}\n", "operation",
                                 "shape", "seconds", "share", "calls", "GFLOP/s", "GB/s");
  for (const ProfileEntry& e : all) text += line(e, whole);
  text += line(total, whole);
  if (wall_seconds > 0) {
    ProfileEntry rest{.operation = "outside of them"};
    rest.seconds = whole - total.seconds;
    text += line(rest, whole);
  }
  return text;
}

}  // namespace

std::unique_ptr<ProfilingBackend> make_profiling_backend(Backend& inner) {
  return std::make_unique<Profile>(inner);
}

}  // namespace longgen
