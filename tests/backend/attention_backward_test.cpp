// Attention backward of the cpu backend against the reference, in every instruction set that this
// machine has.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "longgen/backend/cpu/attention.h"
#include "longgen/backend/cpu/attention_backward_parts.h"
#include "longgen/backend/cpu/cpu_features.h"
#include "tests/backend/attention_case.h"

namespace longgen {
namespace {

using testing::AttentionProblem;
using testing::AttentionResult;
using testing::AttentionShapeCase;
using testing::CpuRun;
using ::testing::HasSubstr;
using testing::Host;
using testing::pattern;
using testing::SolvedProblem;

// Inputs in rows of no document are NaN, as are outputs and the workspace before the call.
AttentionResult run_backward(const AttentionProblem& p, const AttentionResult& forward, CpuRun& run,
                             int64_t gap = 0) {
  const auto& c = p.c;
  const auto with_holes = [&](const std::vector<double>& x, int64_t heads) {
    Host host(c.dtype, {c.rows, heads, c.head_dim}, gap, gap / 16);
    std::vector<double> values(x.size(), std::numeric_limits<double>::quiet_NaN());
    const int64_t row = heads * c.head_dim;
    for (const DocumentRange& d : p.documents) {
      std::copy_n(x.begin() + d.row_begin * row, d.row_count * row,
                  values.begin() + d.row_begin * row);
    }
    host.fill(values);
    return host;
  };
  const Host q = with_holes(p.q, c.q_heads), dout = with_holes(p.dout, c.q_heads);
  const Host out = with_holes(forward.out, c.q_heads);
  const Host k = with_holes(p.k, c.kv_heads), v = with_holes(p.v, c.kv_heads);
  const Host dq(c.dtype, {c.rows, c.q_heads, c.head_dim}, gap, gap / 16);
  const Host dk(c.dtype, {c.rows, c.kv_heads, c.head_dim}, gap, gap / 16);
  const Host dv(c.dtype, {c.rows, c.kv_heads, c.head_dim}, gap, gap / 16);
  Host lse(DType::kF32, {1, c.q_heads, c.rows});
  lse.fill(forward.lse);
  AttentionBackward b{.dq = dq.tensor(),
                      .dk = dk.tensor(),
                      .dv = dv.tensor(),
                      .dout = dout.tensor(),
                      .out = out.tensor(),
                      .q = q.tensor(),
                      .k = k.tensor(),
                      .v = v.tensor(),
                      .lse = lse.tensor().reshape({c.q_heads, c.rows}),
                      .documents = p.documents,
                      .kv_head_begin = c.kv_head_begin,
                      .pattern = &c.pattern,
                      .scale = p.scale};
  const int64_t bytes = cpu_attention_backward_workspace_bytes(
      {c.rows, c.q_heads, c.kv_heads, c.head_dim, c.dtype}, run.context);
  auto storage = testing::poisoned(bytes);
  b.workspace = testing::aligned_span(storage, bytes);
  cpu_attention_backward(b, run.context);
  EXPECT_TRUE(dq.gaps_untouched() && dk.gaps_untouched() && dv.gaps_untouched());
  return {.dq = dq.values(), .dk = dk.values(), .dv = dv.values()};
}

void expect_backward(const AttentionProblem& p, const AttentionResult& got,
                     const AttentionResult& truth, const AttentionResult& plain) {
  const auto& c = p.c;
  testing::expect_near("dq", got.dq, truth.dq, plain.dq, c.dtype, c.q_heads, c.head_dim);
  testing::expect_near("dk", got.dk, truth.dk, plain.dk, c.dtype, c.kv_heads, c.head_dim);
  testing::expect_near("dv", got.dv, truth.dv, plain.dv, c.dtype, c.kv_heads, c.head_dim);
}

std::vector<AttentionShapeCase> shapes() {
  std::vector<AttentionShapeCase> out;
  const auto add = [&](int64_t q, int64_t kv, int64_t dim, int64_t rows, AttentionPattern pat,
                       std::vector<DocumentRange> docs = {}, int64_t head_begin = 0,
                       double gain = 1) {
    out.push_back(
        {DType::kF32, q, kv, dim, rows, std::move(pat), std::move(docs), head_begin, gain});
  };
  for (int64_t rows : {1, 15, 17, 63, 64, 65, 129}) add(3, 1, 16, rows, pattern(64));
  for (int64_t rows : {47, 49, 200}) add(2, 1, 32, rows, pattern(16, 3, 1));
  add(4, 4, 32, 400, pattern(16, 15, 1));
  add(6, 2, 64, 333, pattern(16, 2, 1, 4, {0, 2}));
  add(2, 2, 48, 300, pattern(32, 1, 0, 3, {0, 1, 2, 1}), {}, 1);
  add(3, 3, 80, 290, pattern(128, 1, 1));
  add(4, 1, 96, 200, pattern(64, 2));
  add(2, 1, 128, 300, pattern(128));
  add(16, 1, 64, 150, pattern(32, 2, 1));
  add(9, 3, 64, 260, pattern(64));
  add(4, 2, 128, 260, pattern(64));
  add(4, 2, 128, 230, pattern(64, 2, 1));
  add(2, 1, 64, 200, pattern(64), {}, 0, 6);
  add(3, 1, 64, 400, pattern(32, 2, 1), {{256, 130}, {0, 100}, {128, 33}, {192, 1}});
  return out;
}

const std::vector<SolvedProblem>& solved() {
  static const std::vector<SolvedProblem> all = solve_in_both_dtypes(shapes(), true);
  return all;
}

class AttentionBackwardIsa : public ::testing::TestWithParam<CpuIsa> {};

TEST_P(AttentionBackwardIsa, AgreesWithReference) {
  CpuRun two(GetParam(), 2), five(GetParam(), 5);
  for (const SolvedProblem& s : solved()) {
    SCOPED_TRACE(s.problem.c.to_string());
    expect_backward(s.problem, run_backward(s.problem, s.truth, two), s.truth, s.plain);
    expect_backward(s.problem, run_backward(s.problem, s.truth, five, 16), s.truth, s.plain);
  }
}

TEST_P(AttentionBackwardIsa, RowsOfNoDocumentGetNothingAndGiveNothing) {
  AttentionProblem p({DType::kBF16, 2, 1, 32, 100, pattern(16, 2, 1), {{16, 20}, {64, 5}}});
  CpuRun run(GetParam(), 2);
  const AttentionResult truth = p.truth(true), got = run_backward(p, truth, run);
  for (int64_t row = 0; row < 100; ++row) {
    if ((row >= 16 && row < 36) || (row >= 64 && row < 69)) continue;
    for (int64_t i = 0; i < 64; ++i) ASSERT_EQ(got.dq[static_cast<size_t>(row * 64 + i)], 0);
    for (int64_t i = 0; i < 32; ++i) {
      ASSERT_EQ(got.dk[static_cast<size_t>(row * 32 + i)], 0);
      ASSERT_EQ(got.dv[static_cast<size_t>(row * 32 + i)], 0);
    }
  }
}

TEST_P(AttentionBackwardIsa, RepeatsBitForBit) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const AttentionProblem p({dtype, 6, 2, 32, 500, pattern(16, 5, 1, 4)});
    const AttentionResult truth = p.truth(true);
    for (const int threads : {1, 2, 3}) {
      CpuRun run(GetParam(), threads);
      const AttentionResult first = run_backward(p, truth, run);
      for (int i = 0; i < 10; ++i) {
        const AttentionResult again = run_backward(p, truth, run);
        ASSERT_EQ(again.dq, first.dq);
        ASSERT_EQ(again.dk, first.dk);
        ASSERT_EQ(again.dv, first.dv);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, AttentionBackwardIsa, ::testing::ValuesIn(available_cpu_isas()),
                         [](const auto& info) { return std::string(cpu_isa_name(info.param)); });

TEST(AttentionBackward, PartsCoverEveryTokenOnceWithEvenWork) {
  const std::vector<DocumentRange> documents = {{0, 1000}, {1000, 70}, {1100, 2500}};
  const AttentionPattern full = pattern(64);
  int64_t all = 0;
  for (const DocumentRange& d : documents) all += full.pairs(d.row_count, 0);
  for (const int64_t count : {1, 2, 3, 7}) {
    const auto parts = cut_into_parts(documents, full, 0, count, 320);
    ASSERT_EQ(std::ssize(parts), count);
    int64_t document = 0, token = 0;
    for (const BackwardPart& part : parts) {
      int64_t work = 0;
      for (const QueryTile& tile : part.tiles) {
        if (tile.sequence != document) {
          EXPECT_EQ(token, documents[static_cast<size_t>(document)].row_count);
          document = tile.sequence;
          token = 0;
        }
        EXPECT_EQ(tile.begin, token);
        EXPECT_LE(tile.end - tile.begin, 320);
        token = tile.end;
        work += full.pairs(tile.begin, tile.end, 0);
        const int64_t row = documents[static_cast<size_t>(document)].row_begin;
        EXPECT_GE(row, part.row_begin);
        EXPECT_LE(row + tile.end, part.row_end);
      }
      // Either end may be off by half of the longest strip of 64 tokens.
      EXPECT_NEAR(static_cast<double>(work), static_cast<double>(all) / static_cast<double>(count),
                  64.0 * 2500)
          << count;
    }
    EXPECT_EQ(document, 2);
    EXPECT_EQ(token, 2500);
  }
}

TEST(AttentionBackward, RefusesWhatItCannotDo) {
  CpuRun run(CpuIsa::kPortable, 1);
  Host q(DType::kF32, {20, 4, 32}), k(DType::kF32, {20, 2, 32}), lse(DType::kF32, {1, 4, 20});
  const int64_t bytes =
      cpu_attention_backward_workspace_bytes({20, 4, 2, 32, DType::kF32}, run.context);
  auto storage = testing::poisoned(bytes);
  const AttentionPattern full = pattern(16);
  const DocumentRange overlapping[] = {{0, 12}, {10, 10}};
  const AttentionBackward good{.dq = q.tensor(),
                               .dk = k.tensor(),
                               .dv = k.tensor(),
                               .dout = q.tensor(),
                               .out = q.tensor(),
                               .q = q.tensor(),
                               .k = k.tensor(),
                               .v = k.tensor(),
                               .lse = lse.tensor().reshape({4, 20}),
                               .pattern = &full,
                               .scale = 1,
                               .workspace = testing::aligned_span(storage, bytes)};
  const auto expect_error = [&](const AttentionBackward& b, const std::string& text) {
    try {
      cpu_attention_backward(b, run.context);
      ADD_FAILURE() << "accepted; expected: " << text;
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr(text));
    }
  };
  AttentionBackward b = good;
  b.documents = overlapping;
  expect_error(b, "overlap");
  b = good;
  b.lse = Tensor();
  expect_error(b, "lse is undefined");
  b = good;
  b.dv = q.tensor();
  expect_error(b, "dv is [20, 4, 32]");
  b = good;
  b.pattern = nullptr;
  expect_error(b, "no pattern");
}

}  // namespace
}  // namespace longgen
