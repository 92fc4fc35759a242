// fp64 loops, one thread. Written to be read: this is what the other backends are compared with.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/backend/quantized.h"
#include "longgen/backend/reference/attention.h"
#include "longgen/backend/reference/pointwise.h"
#include "longgen/backend/reference/rows.h"
#include "longgen/backend/stochastic_rounding.h"

namespace longgen {
namespace {

using reference::expect;
using reference::expect_like;
using reference::row;
using reference::row_count;

constexpr DType kF64 = DType::kF64;

// Rounds to f32 so that rounding again to a shorter type equals rounding once ("round to odd").
float round_to_odd(double x) {
  const float nearest = static_cast<float>(x);
  if (std::isnan(x) || static_cast<double>(nearest) == x) return nearest;
  const auto bits = std::bit_cast<uint32_t>(nearest);
  if (bits & 1u) return nearest;
  return std::bit_cast<float>(std::abs(static_cast<double>(nearest)) > std::abs(x) ? bits - 1
                                                                                   : bits + 1);
}

double load(const Tensor& x, int64_t r, int64_t c) {
  switch (x.dtype()) {
    case DType::kF64:
      return row<double>(x, r)[c];
    case DType::kF32:
      return row<float>(x, r)[c];
    case DType::kBF16:
      return static_cast<double>(row<bf16>(x, r)[c]);
    case DType::kF16:
      return f16_to_float(row<f16>(x, r)[c]);
    default:
      fail("reference copy: dtype {} is not converted", dtype_name(x.dtype()));
  }
}

void store(const Tensor& x, int64_t r, int64_t c, double value) {
  switch (x.dtype()) {
    case DType::kF64:
      row<double>(x, r)[c] = value;
      return;
    case DType::kF32:
      row<float>(x, r)[c] = static_cast<float>(value);
      return;
    case DType::kBF16:
      row<bf16>(x, r)[c] = bf16(round_to_odd(value));
      return;
    case DType::kF16:
      row<f16>(x, r)[c] = float_to_f16(round_to_odd(value));
      return;
    default:
      fail("reference copy: dtype {} is not converted", dtype_name(x.dtype()));
  }
}

const Tensor& plain(const WeightView& w) {
  require(w.is_plain(), "reference backend: no gradient goes through a {} weight",
          quantized::scheme_name(w.scheme));
  return w.data;
}

// Row r of a weight [n, k], which is dequantised into `values` where it is quantised.
const double* weight_row(const WeightView& w, int64_t r, std::vector<double>& values) {
  if (w.is_plain()) return row(w.data, r);
  values.resize(static_cast<size_t>(w.k()));
  quantized::dequantize_row(w, r, values.data());
  return values.data();
}

class ReferenceBackend : public Backend {
 public:
  std::string description() const override { return "reference (fp64, 1 thread)"; }
  bool supports(DType activation) const override { return activation == kF64; }
  bool supports_scheme(WeightScheme) const override { return true; }
  MemoryResource& memory() override { return memory_; }

  void zero(const Tensor& x) override {
    const int64_t size = dtype_size(x.dtype()), width = x.dim(-1) * size;
    for (int64_t r = 0; r < row_count(x); ++r) std::memset(row_bytes(x, r), 0, width);
  }

  void copy(const Tensor& dst, const Tensor& src) override {
    const auto a = dst.shape(), b = src.shape();
    require(std::equal(a.begin(), a.end(), b.begin(), b.end()), "reference copy: {} from {}",
            dst.shape_string(), src.shape_string());
    for (int64_t r = 0; r < row_count(src); ++r) {
      if (dst.dtype() == src.dtype()) {
        std::memmove(row_bytes(dst, r), row_bytes(src, r), src.dim(-1) * dtype_size(src.dtype()));
        continue;
      }
      for (int64_t c = 0; c < src.dim(-1); ++c) store(dst, r, c, load(src, r, c));
    }
  }

  void embedding_forward(const Tensor& out, const WeightView& table, const Tensor& ids,
                         bool accumulate) override {
    const int64_t d = table.k();
    std::vector<double> values;
    expect("embedding out", out, kF64, {ids.dim(0), d});
    for (int64_t t = 0; t < ids.dim(0); ++t) {
      const double* from = weight_row(table, checked_id(ids, t, table.n()), values);
      double* to = row(out, t);
      for (int64_t c = 0; c < d; ++c) to[c] = accumulate ? to[c] + from[c] : from[c];
    }
  }

  void embedding_backward(const Tensor& dtable, const Tensor& dout, const Tensor& ids) override {
    expect("embedding dout", dout, kF64, {ids.dim(0), dtable.dim(1)});
    for (int64_t t = 0; t < ids.dim(0); ++t) {
      double* to = row(dtable, checked_id(ids, t, dtable.dim(0)));
      for (int64_t c = 0; c < dtable.dim(1); ++c) to[c] += row(dout, t)[c];
    }
  }

  void norm_forward(NormKind kind, const Tensor& out, const Tensor& stats, const Tensor& x,
                    const Tensor& weight, const Tensor& bias, double eps) override {
    const int64_t d = x.dim(-1);
    expect_like("norm out", out, x);
    expect("norm weight", weight, kF64, {d});
    if (bias.defined()) expect("norm bias", bias, kF64, {d});
    if (stats.defined()) expect("norm stats", stats, kF64, {row_count(x), 2});
    for (int64_t r = 0; r < row_count(x); ++r) {
      const double* in = row(x, r);
      double *to = row(out, r), mean = 0, square = 0;
      if (kind == NormKind::kLayer) {
        for (int64_t c = 0; c < d; ++c) mean += in[c];
        mean /= static_cast<double>(d);
      }
      for (int64_t c = 0; c < d; ++c) square += (in[c] - mean) * (in[c] - mean);
      const double rstd = 1 / std::sqrt(square / static_cast<double>(d) + eps);
      for (int64_t c = 0; c < d; ++c) {
        to[c] = (in[c] - mean) * rstd * row(weight, 0)[c] + (bias.defined() ? row(bias, 0)[c] : 0);
      }
      if (!stats.defined()) continue;
      row(stats, r)[0] = mean;
      row(stats, r)[1] = rstd;
    }
  }

  // With h = (x - mean) rstd and g = dy weight: dx = rstd (g - [mean g] - h mean(g h)), the bracket
  // for kLayer alone.
  void norm_backward(NormKind kind, const Tensor& dx, bool accumulate_dx, const Tensor& dweight,
                     const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& stats,
                     const Tensor& weight) override {
    const int64_t d = x.dim(-1);
    expect_like("norm dx", dx, x);
    expect_like("norm dy", dy, x);
    expect("norm stats", stats, kF64, {row_count(x), 2});
    for (int64_t r = 0; r < row_count(x); ++r) {
      const double *in = row(x, r), *g = row(dy, r), *w = row(weight, 0);
      const double mean = row(stats, r)[0], rstd = row(stats, r)[1];
      double sum_g = 0, sum_gh = 0, *to = row(dx, r);
      for (int64_t c = 0; c < d; ++c) {
        const double h = (in[c] - mean) * rstd;
        sum_g += g[c] * w[c];
        sum_gh += g[c] * w[c] * h;
        if (dweight.defined()) row(dweight, 0)[c] += g[c] * h;
        if (dbias.defined()) row(dbias, 0)[c] += g[c];
      }
      const double mean_g = kind == NormKind::kLayer ? sum_g / static_cast<double>(d) : 0;
      const double mean_gh = sum_gh / static_cast<double>(d);
      for (int64_t c = 0; c < d; ++c) {
        const double h = (in[c] - mean) * rstd;
        to[c] = (accumulate_dx ? to[c] : 0) + rstd * (g[c] * w[c] - mean_g - h * mean_gh);
      }
    }
  }

  void linear_forward(const Tensor& y, const Tensor& x, const WeightView& weight,
                      const Tensor& bias, bool accumulate) override {
    const int64_t rows = x.dim(0), k = x.dim(1), n = weight.n();
    expect("linear y", y, kF64, {rows, n});
    if (weight.is_plain()) expect("linear weight", weight.data, kF64, {n, k});
    expect("linear x", x, kF64, {rows, weight.k()});
    if (bias.defined()) expect("linear bias", bias, kF64, {n});
    std::vector<double> values;
    for (int64_t j = 0; j < n; ++j) {
      const double* b = weight_row(weight, j, values);
      const double first = bias.defined() ? row(bias, 0)[j] : 0;
      const auto store = [&](int64_t t, double sum) {
        row(y, t)[j] = sum + (accumulate ? row(y, t)[j] : 0);
      };
      int64_t t = 0;
      for (; t + 4 <= rows; t += 4) {  // side by side, each sum in its order
        const double *a0 = row(x, t), *a1 = row(x, t + 1), *a2 = row(x, t + 2), *a3 = row(x, t + 3);
        double sum0 = first, sum1 = first, sum2 = first, sum3 = first;
        for (int64_t i = 0; i < k; ++i) {
          sum0 += a0[i] * b[i];
          sum1 += a1[i] * b[i];
          sum2 += a2[i] * b[i];
          sum3 += a3[i] * b[i];
        }
        store(t, sum0);
        store(t + 1, sum1);
        store(t + 2, sum2);
        store(t + 3, sum3);
      }
      for (; t < rows; ++t) {
        const double* a = row(x, t);
        double sum = first;
        for (int64_t i = 0; i < k; ++i) sum += a[i] * b[i];
        store(t, sum);
      }
    }
  }

  void linear_backward_input(const Tensor& dx, const Tensor& dy, const WeightView& weight,
                             bool accumulate) override {
    const Tensor& w = plain(weight);
    const int64_t rows = dy.dim(0), n = w.dim(0), k = w.dim(1);
    expect("linear dx", dx, kF64, {rows, k});
    expect("linear dy", dy, kF64, {rows, n});
    for (int64_t t = 0; t < rows; ++t) {
      double* to = row(dx, t);
      if (!accumulate) std::fill_n(to, k, 0.0);
      for (int64_t j = 0; j < n; ++j) {
        const double g = row(dy, t)[j], *from = row(w, j);
        for (int64_t i = 0; i < k; ++i) to[i] += g * from[i];
      }
    }
  }

  void linear_backward_weight(const Tensor& dw, const Tensor& dy, const Tensor& x) override {
    const int64_t rows = x.dim(0), n = dy.dim(1), k = x.dim(1);
    expect("linear dw", dw, kF64, {n, k});
    expect("linear dy", dy, kF64, {rows, n});
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t j = 0; j < n; ++j) {
        const double g = row(dy, t)[j], *from = row(x, t);
        double* to = row(dw, j);
        for (int64_t i = 0; i < k; ++i) to[i] += g * from[i];
      }
    }
  }

  void linear_backward_bias(const Tensor& dbias, const Tensor& dy) override {
    expect("linear dbias", dbias, kF64, {dy.dim(1)});
    for (int64_t t = 0; t < dy.dim(0); ++t) {
      for (int64_t j = 0; j < dy.dim(1); ++j) row(dbias, 0)[j] += row(dy, t)[j];
    }
  }

  void rope(const Tensor& x, const Tensor& table, const Tensor& positions, bool inverse) override {
    const int64_t heads = x.dim(1), half = table.dim(1) / 2;
    require(2 * half <= x.dim(2), "reference rope: {} channels rotate in heads of {}", 2 * half,
            x.dim(2));
    expect("rope positions", positions, DType::kI32, {x.dim(0)});
    for (int64_t i = 0; i < x.dim(0) * heads; ++i) {
      const float* angles = row<float>(table, checked_id(positions, i / heads, table.dim(0)));
      double* v = row(x, i);
      for (int64_t c = 0; c < half; ++c) {
        const double cos = angles[c], sin = inverse ? -angles[half + c] : angles[half + c];
        const double a = v[c], b = v[c + half];
        v[c] = a * cos - b * sin;
        v[c + half] = b * cos + a * sin;
      }
    }
  }

  int64_t attention_forward_workspace_bytes(const AttentionShape&) const override { return 0; }
  void attention_forward(const AttentionForward& args) override {
    reference::attention_forward(args);
  }
  int64_t attention_backward_workspace_bytes(const AttentionShape&) const override { return 0; }
  void attention_backward(const AttentionBackward& args) override {
    reference::attention_backward(args);
  }
  void kv_write(const KvView& kv, DType kv_dtype, int64_t block_size, int64_t first_position,
                const Tensor& k, const Tensor& v) override {
    reference::kv_write(kv, kv_dtype, block_size, first_position, k, v);
  }

  void activation_forward(Activation act, const Tensor& out, const Tensor& gate,
                          const Tensor& up) override {
    expect_like("activation out", out, gate);
    if (up.defined()) expect_like("activation up", up, gate);
    for (int64_t r = 0; r < row_count(gate); ++r) {
      for (int64_t c = 0; c < gate.dim(-1); ++c) {
        const double value = reference::activate(act, row(gate, r)[c]).value;
        row(out, r)[c] = up.defined() ? value * row(up, r)[c] : value;
      }
    }
  }

  void activation_backward(Activation act, const Tensor& dgate, const Tensor& dup,
                           const Tensor& dout, const Tensor& gate, const Tensor& up) override {
    require(dup.defined() == up.defined(), "reference activation backward: up and dup go together");
    expect_like("activation dgate", dgate, gate);
    expect_like("activation dout", dout, gate);
    for (int64_t r = 0; r < row_count(gate); ++r) {
      for (int64_t c = 0; c < gate.dim(-1); ++c) {
        const auto [value, slope] = reference::activate(act, row(gate, r)[c]);
        const double g = row(dout, r)[c], u = up.defined() ? row(up, r)[c] : 1;
        row(dgate, r)[c] = g * u * slope;
        if (dup.defined()) row(dup, r)[c] = g * value;
      }
    }
  }

  void add(const Tensor& out, const Tensor& a, const Tensor& b) override {
    expect_like("add out", out, a);
    expect_like("add b", b, a);
    for (int64_t r = 0; r < row_count(a); ++r) {
      for (int64_t c = 0; c < a.dim(-1); ++c) row(out, r)[c] = row(a, r)[c] + row(b, r)[c];
    }
  }

  void softmax_cross_entropy(const Tensor& losses, const Tensor& dlogits, const Tensor& logits,
                             const Tensor& labels, double scale) override {
    const int64_t rows = logits.dim(0), n = logits.dim(1);
    expect("losses", losses, kF64, {rows});
    expect("labels", labels, DType::kI32, {rows});
    if (dlogits.defined()) expect_like("dlogits", dlogits, logits);
    for (int64_t t = 0; t < rows; ++t) {
      row(losses, 0)[t] = 0;
      if (row<int32_t>(labels, 0)[t] == -1) {
        if (dlogits.defined()) std::fill_n(row(dlogits, t), n, 0.0);
        continue;
      }
      const int64_t label = checked_id(labels, t, n);
      const double *z = row(logits, t), max = *std::max_element(z, z + n);
      double sum = 0;
      for (int64_t j = 0; j < n; ++j) sum += std::exp(z[j] - max);
      const double lse = max + std::log(sum);
      row(losses, 0)[t] = lse - z[label];
      for (int64_t j = 0; dlogits.defined() && j < n; ++j) {
        row(dlogits, t)[j] = (std::exp(z[j] - lse) - (j == label ? 1 : 0)) * scale;
      }
    }
  }

  double sum_of_squares(const Tensor& x) override {
    double sum = 0;
    for (int64_t r = 0; r < row_count(x); ++r) {
      for (int64_t c = 0; c < x.dim(-1); ++c) sum += row(x, r)[c] * row(x, r)[c];
    }
    return sum;
  }

  void adamw_step(const Tensor& weights, const Tensor& master, const Tensor& m, const Tensor& v,
                  const Tensor& gradient, const AdamW& o) override {
    for (const Tensor* x : {&master, &m, &v, &gradient}) expect_like("adamw operand", *x, weights);
    const double correct_m = 1 - std::pow(o.beta1, static_cast<double>(o.step));
    const double correct_v = 1 - std::pow(o.beta2, static_cast<double>(o.step));
    for (int64_t r = 0; r < row_count(weights); ++r) {
      for (int64_t c = 0; c < weights.dim(-1); ++c) {
        const double g = row(gradient, r)[c] * o.gradient_scale;
        double &mean = row(m, r)[c], &square = row(v, r)[c], &w = row(master, r)[c];
        mean = o.beta1 * mean + (1 - o.beta1) * g;
        square = o.beta2 * square + (1 - o.beta2) * g * g;
        const double update = mean / correct_m / (std::sqrt(square / correct_v) + o.eps);
        w -= o.lr * (update + o.weight_decay * w);
        row(weights, r)[c] = w;
      }
    }
  }

  // In f64, then to f32, then as the bits say.
  void adamw_step_bf16(const Tensor& weights, const Tensor& m, const Tensor& v,
                       const Tensor& gradient, const AdamW& o,
                       const StochasticRounding& rounding) override {
    const double correct_m = 1 - std::pow(o.beta1, static_cast<double>(o.step));
    const double correct_v = 1 - std::pow(o.beta2, static_cast<double>(o.step));
    for (int64_t i = 0; i < weights.numel(); ++i) {
      bf16 &w = weights.data<bf16>()[i], &mean = m.data<bf16>()[i], &square = v.data<bf16>()[i];
      const double g = gradient.data<double>()[i] * o.gradient_scale, old = static_cast<double>(w);
      const double new_m = o.beta1 * static_cast<double>(mean) + (1 - o.beta1) * g;
      const double new_v = o.beta2 * static_cast<double>(square) + (1 - o.beta2) * g * g;
      const double update = new_m / correct_m / (std::sqrt(new_v / correct_v) + o.eps);
      const double new_w = old - o.lr * (update + o.weight_decay * old);
      const RoundingBits bits = rounding_bits(rounding, i);
      w = round_stochastically(static_cast<float>(new_w), bits.weight);
      mean = round_stochastically(static_cast<float>(new_m), bits.m);
      square = round_stochastically(static_cast<float>(new_v), bits.v);
    }
  }

 private:
  static void* row_bytes(const Tensor& x, int64_t r) {
    return static_cast<std::byte*>(x.raw()) + reference::row_offset(x, r) * dtype_size(x.dtype());
  }

  static int64_t checked_id(const Tensor& ids, int64_t t, int64_t bound) {
    const int64_t id = ids.data<int32_t>()[t];
    require(id >= 0 && id < bound, "reference backend: id {} at row {} is outside [0, {})", id, t,
            bound);
    return id;
  }

  HostMemory memory_;
};

}  // namespace

std::unique_ptr<Backend> make_reference_backend() { return std::make_unique<ReferenceBackend>(); }

}  // namespace longgen
