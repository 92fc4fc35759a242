// The cpu backend: f32 and bf16. Products are gemm.h's, attention is attention.h's, the rest is row
// by row (row_kernels.h). Results depend on shapes and the instruction set; sums over rows (dweight
// and dbias of norms) also on the number of threads.
#pragma once

#include <string>

#include "longgen/backend/backend.h"
#include "longgen/backend/cpu/cpu_context.h"
#include "longgen/backend/cpu/gemm.h"
#include "longgen/backend/cpu/quantized_linear.h"
#include "longgen/backend/cpu/scratch.h"
#include "longgen/base/thread_pool.h"

namespace longgen {

class CpuBackend : public Backend {
 public:
  // isa: not kAuto, and available.
  CpuBackend(int threads, CpuIsa isa);

  std::string description() const override;
  bool supports(DType activation) const override {
    return activation == DType::kF32 || activation == DType::kBF16;
  }
  bool supports_scheme(WeightScheme) const override { return true; }
  DType preferred_dtype() const override;
  MemoryResource& memory() override { return memory_; }

  void zero(const Tensor& x) override;
  void copy(const Tensor& dst, const Tensor& src) override;

  void embedding_forward(const Tensor& out, const WeightView& table, const Tensor& ids,
                         bool accumulate) override;
  void embedding_backward(const Tensor& dtable, const Tensor& dout, const Tensor& ids) override;

  void norm_forward(NormKind kind, const Tensor& out, const Tensor& stats, const Tensor& x,
                    const Tensor& weight, const Tensor& bias, double eps) override;
  void norm_backward(NormKind kind, const Tensor& dx, bool accumulate_dx, const Tensor& dweight,
                     const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& stats,
                     const Tensor& weight) override;

  void linear_forward(const Tensor& y, const Tensor& x, const WeightView& w, const Tensor& bias,
                      bool accumulate) override;
  void linear_forward_onto(const Tensor& y, const Tensor& base, const Tensor& x,
                           const WeightView& w, const Tensor& bias) override;
  void linear_backward_input(const Tensor& dx, const Tensor& dy, const WeightView& w,
                             bool accumulate) override;
  void linear_backward_weight(const Tensor& dw, const Tensor& dy, const Tensor& x) override;
  void linear_backward_bias(const Tensor& dbias, const Tensor& dy) override;

  void rope(const Tensor& x, const Tensor& table, const Tensor& positions, bool inverse) override;

  int64_t attention_forward_workspace_bytes(const AttentionShape& shape) const override;
  void attention_forward(const AttentionForward& args) override;
  int64_t attention_backward_workspace_bytes(const AttentionShape& shape) const override;
  void attention_backward(const AttentionBackward& args) override;
  void kv_write(const KvView& kv, DType kv_dtype, int64_t block_size, int64_t first_position,
                const Tensor& k, const Tensor& v) override;

  void activation_forward(Activation act, const Tensor& out, const Tensor& gate,
                          const Tensor& up) override;
  void activation_backward(Activation act, const Tensor& dgate, const Tensor& dup,
                           const Tensor& dout, const Tensor& gate, const Tensor& up) override;
  void activation_both(Activation act, const Tensor& out, const Tensor& dgate, const Tensor& dup,
                       const Tensor& dout, const Tensor& gate, const Tensor& up) override;
  void add(const Tensor& out, const Tensor& a, const Tensor& b) override;

  void softmax_cross_entropy(const Tensor& losses, const Tensor& dlogits, const Tensor& logits,
                             const Tensor& labels, double scale) override;

  double sum_of_squares(const Tensor& x) override;
  void adamw_step(const Tensor& weights, const Tensor& master, const Tensor& m, const Tensor& v,
                  const Tensor& gradient, const AdamW& args) override;
  void adamw_step_bf16(const Tensor& weights, const Tensor& m, const Tensor& v,
                       const Tensor& gradient, const AdamW& args,
                       const StochasticRounding& rounding) override;

 private:
  // y = x w^T (+ bias) (+ base, unless undefined), of plain weights.
  void multiply_weight(std::string_view op, const Tensor& y, const Tensor& base, const Tensor& x,
                       const WeightView& w, const Tensor& bias);
  // out is left alone unless defined.
  void activation_gradients(std::string_view op, Activation act, const Tensor& out,
                            const Tensor& dgate, const Tensor& dup, const Tensor& dout,
                            const Tensor& gate, const Tensor& up);

  HostMemory memory_;
  ThreadPool pool_;
  CpuContext context_;
  Gemm gemm_;
  QuantizedLinear quantized_;
  Scratch partials_;
};

}  // namespace longgen
