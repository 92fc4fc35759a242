// Attention problems for tests: random inputs, the truth from the reference backend in f64, what a
// plain bf16 implementation makes of them, and how far apart results are.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/backend/cpu/cpu_context.h"

namespace longgen::testing {

inline AttentionPattern pattern(int64_t block, int64_t local = AttentionPattern::kAll,
                                int64_t sink = 0, int64_t stride = 0,
                                std::vector<int64_t> offsets = {0}) {
  return {.block_size = block,
          .sink_blocks = sink,
          .local_blocks = local,
          .stride = stride,
          .offsets = std::move(offsets)};
}

struct AttentionShapeCase {
  DType dtype = DType::kF32;
  int64_t q_heads = 1, kv_heads = 1, head_dim = 16, rows = 1;
  AttentionPattern pattern;
  std::vector<DocumentRange> documents;  // empty: all rows are one
  int64_t kv_head_begin = 0;
  double gain = 1;  // of the scores: larger makes softmax sharper

  std::string to_string() const;
};

// A [rows, heads, dim] tensor in memory of its own, perhaps with gaps between rows and heads. Gaps
// (and everything until it is filled) are NaN.
class Host {
 public:
  Host(DType dtype, std::vector<int64_t> shape, int64_t head_gap = 0, int64_t row_gap = 0);

  const Tensor& tensor() const { return tensor_; }
  void fill(const std::vector<double>& values);  // rounded to the dtype
  std::vector<double> values() const;
  bool gaps_untouched() const;

 private:
  std::vector<std::byte> bytes_;
  Tensor tensor_;
};

// NaN in f32 and bf16 alike.
std::vector<std::byte> poisoned(int64_t bytes);
std::span<std::byte> aligned_span(std::vector<std::byte>& storage, int64_t bytes);

struct AttentionResult {
  std::vector<double> out, lse, dq, dk, dv;
};

struct AttentionProblem {
  explicit AttentionProblem(AttentionShapeCase c, uint64_t seed = 1);

  AttentionShapeCase c;
  double scale;
  std::vector<DocumentRange> documents;
  std::vector<double> q, k, v, dout;  // already rounded to the dtype

  // Forward, of one document, may begin at row `from`: results of rows before it are left 0.
  AttentionResult truth(bool backward, int64_t from = 0) const;
  // Dense loops; scores, probabilities and their gradients rounded to bf16 as they would be stored.
  AttentionResult plain_bf16(bool backward, int64_t from = 0) const;
};

// Relative L2 over everything, and the largest over rows [., head_dim] and over blocks of 16 rows
// of a head, each relative to the larger of its own norm and a tenth of the mean norm (rows that
// are nearly 0 have no relative error), and at least 0.1 a number.
struct Distance {
  double all = 0, row = 0, block = 0;
  std::string to_string() const;
};
Distance distance(const std::vector<double>& got, const std::vector<double>& want, int64_t heads,
                  int64_t head_dim);

// A context with its own threads.
struct CpuRun {
  CpuRun(CpuIsa isa, int threads) : pool(threads), context{pool, isa} {}
  ThreadPool pool;
  CpuContext context;
};

// A problem with its solutions; made once for all instruction sets.
struct SolvedProblem {
  SolvedProblem(AttentionProblem p, bool backward, int64_t from = 0)
      : problem(std::move(p)),
        truth(problem.truth(backward, from)),
        plain(problem.c.dtype == DType::kBF16 ? problem.plain_bf16(backward, from)
                                              : AttentionResult()) {}
  SolvedProblem(const AttentionShapeCase& c, bool backward)
      : SolvedProblem(AttentionProblem(c), backward) {}
  AttentionProblem problem;
  AttentionResult truth, plain;
};

// Fails the test unless `got` is as near to the truth as its dtype allows: f32 by the errors of f32
// sums, bf16 within twice the distance of the plain implementation.
void expect_near(const std::string& name, const std::vector<double>& got,
                 const std::vector<double>& want, const std::vector<double>& plain, DType dtype,
                 int64_t heads, int64_t head_dim);

// All cases, side by side on all processors; case i from row from[i] on (empty: all rows).
std::vector<SolvedProblem> solve(const std::vector<AttentionShapeCase>& cases, bool backward,
                                 const std::vector<int64_t>& from = {});

// Every shape in f32, then in bf16, solved by the reference.
std::vector<SolvedProblem> solve_in_both_dtypes(const std::vector<AttentionShapeCase>& shapes,
                                                bool backward);

}  // namespace longgen::testing
