// The cuda backend: f32 and bf16 on one Hopper GPU. Products are cuBLASLt's, attention is
// attention/'s, the rest row by row (launch.h). Calls return when their work has been queued on one
// stream; copies to the host and sums that return numbers wait for it, and report what kernels
// found wrong.
//
// Sums have a fixed order: the same call on the same inputs gives the same bits.
#pragma once

#include <string>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/backend/cuda/attention/launch.h"
#include "longgen/backend/cuda/copy_queue.h"
#include "longgen/backend/cuda/launch.h"
#include "longgen/backend/cuda/products.h"
#include "longgen/backend/cuda/runtime.h"
#include "longgen/backend/cuda/uploads.h"
#include "longgen/backend/device_queue.h"
#include "longgen/backend/operand_checks.h"

namespace longgen::cuda {

class CudaBackend : public Backend, public DeviceQueue {
 public:
  // Throws Error when there is no such device or it is no Hopper GPU.
  explicit CudaBackend(int device);

  std::string description() const override;
  bool supports(DType activation) const override {
    return activation == DType::kF32 || activation == DType::kBF16;
  }
  DType preferred_dtype() const override { return DType::kBF16; }
  MemoryResource& memory() override { return memory_; }
  void synchronize() override { finish(); }

  void step(bool repeats, const std::function<void()>& work) override { steps_.run(repeats, work); }
  int64_t graph_steps() const override { return steps_.graph_steps(); }
  double last_step_seconds() override;
  double seconds(const std::function<void()>& work) override;

  void zero(const Tensor& x) override;
  void copy(const Tensor& dst, const Tensor& src) override;
  MemoryResource& offload_memory() override { return pinned_; }
  int64_t copy_beside(const Tensor& dst, const Tensor& src) override;
  void wait_for_copy(int64_t copy) override { copies_.wait(copy); }

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
  void kv_write_all(std::span<const AttentionSequence> sequences, DType kv_dtype,
                    int64_t block_size, const Tensor& k, const Tensor& v) override;

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
  struct Device {
    explicit Device(int index);
    int index, processors = 0;
    std::string name;
    int64_t bytes = 0;
  };

  // While a step is collected, notes the call and says that it is not to launch anything. `values`:
  // all that its launches depend on, but data that is put.
  template <typename... Values>
  bool collected(std::string_view operation, const Values&... values) {
    if (!steps_.collecting()) return false;
    steps_.note(operation, values...);
    return true;
  }
  // Throws Error in a step: the call is made for whole passes, or reads back.
  void refuse_in_step(std::string_view operation) const;
  // `out` may be undefined.
  void activation_slopes(Activation act, const Tensor& out, const Tensor& dgate, const Tensor& dup,
                         const Tensor& dout, const Tensor& gate, const Tensor& up);
  const int32_t* put_table(const KvView& kv);

  void upload(const Tensor& dst, const Tensor& src);
  void download(const Tensor& dst, const Tensor& src);
  // Waits, then throws if a kernel failed or met a bad id.
  void finish();
  int64_t parts(int64_t rows, int64_t columns) const;
  PatternArgs pattern_args(const AttentionPattern& pattern, int64_t kv_heads,
                           int64_t kv_head_begin);
  SequenceArgs sequence_args(const AttentionSequence& sequence);

  Device device_;
  CudaMemory memory_;
  Stream stream_;
  Products products_;
  PinnedMemory pinned_;
  CopyQueue copies_;
  Steps steps_;
  Uploads uploads_;
  Buffer scratch_;          // partial sums, numbers on their way to the host
  Buffer error_flag_;       // int: see ErrorFlag
  Buffer arrived_{4096};    // see hopper::DecodeArgs; 0 between launches
  PinnedBuffer seen_flag_;  // error_flag_'s copy on the host
  PinnedBuffer arrivals_;   // small results on their way to pageable memory, which is slow to reach
  // The most of a sequence in the last kv_write_all.
  int64_t written_rows_ = 0;
};

// Of every operation's operands but attention's.
const OperandChecks& checks();
// The matrix itself. Throws Error for a quantised one.
const Tensor& plain(const WeightView& w);
// Rows of x, whatever its rank: a contiguous tensor is cut into rows that suit the kernels. Throws
// Error for a rank of 4 that is not contiguous.
Rows rows_of(const Tensor& x);
// Rows along the last dimension, as the kernels that care for it need them.
Rows last_dimension_rows(const Tensor& x);
Element element_of(DType dtype);

}  // namespace longgen::cuda
