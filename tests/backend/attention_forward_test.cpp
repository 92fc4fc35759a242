// Attention forward of the cpu backend against the reference, in every instruction set that this
// machine has.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <numeric>

#include "longgen/backend/cpu/attention.h"
#include "longgen/backend/cpu/cpu_features.h"
#include "longgen/base/rng.h"
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

// Keys and values of one document in pages, [pages][heads][block][dim] with the pages shuffled, or
// one contiguous tensor when `paged` is false. Blocks that no query at or after `position` sees are
// released: their pages hold NaN and their entries -1.
class Pages {
 public:
  Pages(const AttentionProblem& p, const DocumentRange& doc, bool paged, int64_t position = 0,
        int64_t length = -1)
      : keys_(p.c.dtype, {1, 1, 1}), values_(p.c.dtype, {1, 1, 1}) {
    const auto& c = p.c;
    const int64_t block = c.pattern.block_size, dim = c.head_dim;
    if (length < 0) length = doc.row_count;
    const int64_t blocks = (length + block - 1) / block;
    std::vector<int64_t> page_of(static_cast<size_t>(blocks));
    std::iota(page_of.begin(), page_of.end(), 0);
    Rng rng(3, static_cast<uint64_t>(length));
    for (size_t i = page_of.size(); paged && i > 1; --i)
      std::swap(page_of[i - 1], page_of[rng.below(i)]);
    keys_ = Host(c.dtype, {blocks * c.kv_heads, block, dim}, paged ? 16 : 0);
    values_ = Host(c.dtype, {blocks * c.kv_heads, block, dim}, paged ? 16 : 0);
    std::vector<double> k(static_cast<size_t>(blocks * c.kv_heads * block * dim),
                          std::numeric_limits<double>::quiet_NaN());
    std::vector<double> v = k;
    for (int64_t b = 0; b < blocks; ++b) {
      bool live = false;
      for (int64_t h = 0; h < c.kv_heads; ++h) {
        live = live || c.pattern.is_live(b, position, c.kv_head_begin + h);
      }
      table_.push_back(live ? static_cast<int32_t>(page_of[static_cast<size_t>(b)]) : -1);
      for (int64_t h = 0; live && h < c.kv_heads; ++h) {
        for (int64_t t = b * block; t < std::min((b + 1) * block, length); ++t) {
          const int64_t from = ((doc.row_begin + t) * c.kv_heads + h) * dim;
          const int64_t to =
              ((page_of[static_cast<size_t>(b)] * c.kv_heads + h) * block + t % block) * dim;
          std::copy_n(p.k.begin() + from, dim, k.begin() + to);
          std::copy_n(p.v.begin() + from, dim, v.begin() + to);
        }
      }
    }
    keys_.fill(k);
    values_.fill(v);
    view.keys = keys_.tensor().raw();
    view.values = values_.tensor().raw();
    view.token_stride = keys_.tensor().stride(1);
    view.head_stride = keys_.tensor().stride(0);
    view.page_stride = c.kv_heads * view.head_stride;
    if (paged) {
      view.block_table = table_.data();
      view.block_table_size = blocks;
    }
    view.length = length;
  }
  Pages(const Pages&) = delete;

  KvView view;

 private:
  Host keys_, values_;
  std::vector<int32_t> table_;
};

struct Call {
  std::vector<AttentionSequence> sequences;
  bool with_lse = true;
  int64_t head_gap = 0, row_gap = 0;
};

AttentionResult run_call(const AttentionProblem& p, CpuRun& run, const Call& call) {
  const auto& c = p.c;
  Host q(c.dtype, {c.rows, c.q_heads, c.head_dim}, call.head_gap, call.row_gap);
  Host out(c.dtype, {c.rows, c.q_heads, c.head_dim}, call.head_gap, call.row_gap);
  Host lse(DType::kF32, {1, c.q_heads, c.rows});
  q.fill(p.q);
  AttentionForward f{.out = out.tensor(),
                     .q = q.tensor(),
                     .sequences = call.sequences,
                     .kv_dtype = c.dtype,
                     .kv_heads = c.kv_heads,
                     .kv_head_begin = c.kv_head_begin,
                     .pattern = &c.pattern,
                     .scale = p.scale};
  if (call.with_lse) f.lse = lse.tensor().reshape({c.q_heads, c.rows});
  const int64_t bytes = cpu_attention_forward_workspace_bytes(
      {c.rows, c.q_heads, c.kv_heads, c.head_dim, c.dtype}, run.context);
  auto storage = testing::poisoned(bytes);
  f.workspace = testing::aligned_span(storage, bytes);
  cpu_attention_forward(f, run.context);
  EXPECT_TRUE(out.gaps_untouched());
  return {.out = out.values(), .lse = lse.values()};
}

// Every document as one sequence over its own keys.
AttentionResult run_whole(const AttentionProblem& p, CpuRun& run, bool paged, int64_t gap = 0) {
  std::vector<std::unique_ptr<Pages>> pages;
  Call call{.head_gap = gap, .row_gap = gap / 16};
  for (const DocumentRange& d : p.documents) {
    pages.push_back(std::make_unique<Pages>(p, d, paged));
    call.sequences.push_back({d.row_begin, d.row_count, 0, pages.back()->view});
  }
  return run_call(p, run, call);
}

// Rows of documents alone; others become 0 in both.
void keep_documents(const AttentionProblem& p, std::vector<double>* x, int64_t row_size) {
  std::vector<double> kept(x->size(), 0);
  for (const DocumentRange& d : p.documents) {
    std::copy_n(x->begin() + d.row_begin * row_size, d.row_count * row_size,
                kept.begin() + d.row_begin * row_size);
  }
  *x = kept;
}

void expect_forward(const AttentionProblem& p, AttentionResult got, const AttentionResult& truth,
                    const AttentionResult& plain, const std::string& name) {
  const auto& c = p.c;
  keep_documents(p, &got.out, c.q_heads * c.head_dim);
  testing::expect_near(name + " out", got.out, truth.out, plain.out, c.dtype, c.q_heads,
                       c.head_dim);
  for (const DocumentRange& d : p.documents) {
    for (int64_t h = 0; h < c.q_heads; ++h) {
      for (int64_t r = d.row_begin; r < d.row_begin + d.row_count; ++r) {
        const auto i = static_cast<size_t>(h * c.rows + r);
        // Scores are sums of products of bf16 or f32 in f32 either way.
        ASSERT_NEAR(got.lse[i], truth.lse[i], 1e-5 * (1 + std::abs(truth.lse[i])))
            << name << " lse";
      }
    }
  }
}

std::vector<AttentionShapeCase> shapes() {
  std::vector<AttentionShapeCase> out;
  const auto add = [&](int64_t q, int64_t kv, int64_t dim, int64_t rows, AttentionPattern pat,
                       std::vector<DocumentRange> docs = {}, int64_t head_begin = 0,
                       double gain = 1) {
    out.push_back(
        {DType::kF32, q, kv, dim, rows, std::move(pat), std::move(docs), head_begin, gain});
  };
  for (int64_t rows : {1, 15, 16, 17, 63, 64, 65, 129}) add(3, 1, 16, rows, pattern(64));
  for (int64_t rows : {47, 48, 49, 80, 200}) add(2, 1, 32, rows, pattern(16, 3, 1));
  add(1, 1, 32, 300, pattern(16, 15, 1));  // budget near the length
  add(4, 4, 32, 500, pattern(16, 15, 1));
  add(6, 2, 64, 333, pattern(16, 2, 1, 4));
  add(6, 2, 64, 333, pattern(16, 2, 1, 4, {0, 2}));
  add(2, 2, 48, 400, pattern(32, 1, 0, 3, {0, 1, 2, 1}), {}, 1);  // a part of four KV heads
  add(3, 3, 80, 290, pattern(128, 1, 1));
  add(4, 1, 96, 270, pattern(64, 2));  // window without sinks
  add(2, 1, 128, 300, pattern(128));
  add(16, 1, 64, 150, pattern(32, 2, 1));
  add(32, 2, 16, 70, pattern(16, 2, 1));
  add(9, 3, 64, 260, pattern(64));
  add(4, 2, 128, 400, pattern(64));
  add(4, 2, 128, 420, pattern(64, 2, 1));
  add(2, 1, 64, 260, pattern(64), {}, 0, 12);  // sharp softmax
  add(3, 1, 64, 400, pattern(32, 2, 1), {{0, 100}, {128, 33}, {192, 1}, {256, 130}});
  return out;
}

const std::vector<SolvedProblem>& solved() {
  static const std::vector<SolvedProblem> all = solve_in_both_dtypes(shapes(), false);
  return all;
}

class AttentionForwardIsa : public ::testing::TestWithParam<CpuIsa> {};

TEST_P(AttentionForwardIsa, AgreesWithReference) {
  CpuRun run(GetParam(), 2);
  for (const auto& [p, truth, plain] : solved()) {
    SCOPED_TRACE(p.c.to_string());
    expect_forward(p, run_whole(p, run, false), truth, plain, "contiguous");
    expect_forward(p, run_whole(p, run, true, 16), truth, plain, "paged, strided");
  }
}

// Prefill in chunks and then token by token over pages that are released as soon as the pattern
// allows, on 1 to 5 threads: every chunk sees what the whole saw.
TEST_P(AttentionForwardIsa, ChunksAndDecodeAgreeWithWhole) {
  constexpr int64_t kRows = 600, kRow = 6 * 64;
  static const std::vector<SolvedProblem> solved = [] {
    std::vector<SolvedProblem> out;
    for (const auto& pat : {pattern(16, 3, 1), pattern(64), pattern(16, 2, 1, 5, {0, 3})}) {
      out.emplace_back(AttentionShapeCase{DType::kF32, 6, 2, 64, kRows, pat}, false);
      out.emplace_back(AttentionShapeCase{DType::kBF16, 6, 2, 64, kRows, pat}, false);
    }
    return out;
  }();
  for (const auto& [p, truth, plain] : solved) {
    for (const int threads : {1, 2, 5}) {
      CpuRun run(GetParam(), threads);
      AttentionResult got{.out = std::vector<double>(p.q.size(), 0),
                          .lse = std::vector<double>(truth.lse.size(), 0)};
      int64_t at = 0;
      const auto step = [&](int64_t count) {
        const Pages pages(p, p.documents[0], true, at, at + count);
        const AttentionResult r = run_call(p, run, {.sequences = {{at, count, at, pages.view}}});
        std::copy_n(r.out.begin() + at * kRow, count * kRow, got.out.begin() + at * kRow);
        for (int64_t h = 0; h < 6; ++h) {
          std::copy_n(r.lse.begin() + h * kRows + at, count, got.lse.begin() + h * kRows + at);
        }
        at += count;
      };
      for (const int64_t count : {100, 28, 1, 250, 7, 200}) step(count);
      for (const int64_t count : {2, 3, 2, 3, 1, 1, 1, 1}) step(count);
      expect_forward(p, got, truth, plain, p.c.pattern.to_string() + " " + std::to_string(threads));
    }
  }
}

TEST_P(AttentionForwardIsa, BatchesOfDecodeAndPrefillAreIndependent) {
  const AttentionProblem p(
      {DType::kBF16, 4, 2, 32, 300, pattern(16, 4, 1), {{0, 90}, {90, 1}, {91, 150}, {250, 50}}});
  CpuRun run(GetParam(), 2);
  const AttentionResult truth = p.truth(false), plain = p.plain_bf16(false);
  // The last 1, 1, 3 and 50 tokens of each document in one call; other rows must be left alone.
  Call call;
  std::vector<std::unique_ptr<Pages>> pages;
  const int64_t counts[] = {1, 1, 3, 50};
  for (size_t i = 0; i < 4; ++i) {
    const DocumentRange d = p.documents[i];
    const int64_t first = d.row_count - counts[i];
    pages.push_back(std::make_unique<Pages>(p, d, true, first));
    call.sequences.push_back({d.row_begin + first, counts[i], first, pages.back()->view});
  }
  const AttentionResult got = run_call(p, run, call);
  std::vector<double> some = got.out, want = truth.out, rounded = plain.out;
  std::vector<bool> asked(300, false);
  for (const auto& s : call.sequences) {
    std::fill_n(asked.begin() + s.row_begin, s.row_count, true);
  }
  for (int64_t r = 0; r < 300; ++r) {
    for (int64_t i = r * 128; i < (r + 1) * 128; ++i) {
      const auto x = static_cast<size_t>(i);
      if (asked[static_cast<size_t>(r)]) continue;
      EXPECT_TRUE(std::isnan(some[x])) << "row " << r << " was written";
      some[x] = want[x] = rounded[x] = 0;
    }
  }
  testing::expect_near("batch", some, want, rounded, DType::kBF16, 4, 32);
}

// The last keys weigh e^170 times what the first do, more than f32 can hold: the maximum that sums
// are kept relative to must move, for some heads alone, at every key tile.
TEST_P(AttentionForwardIsa, ScoresThatGrowWithPosition) {
  static const std::vector<SolvedProblem> solved = [] {
    std::vector<SolvedProblem> out;
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const auto& pat : {pattern(64), pattern(16, 15, 1)}) {
        AttentionProblem p({dtype, 6, 2, 64, 700, pat});
        for (int64_t i = 0; i < 700 * 128; ++i) {
          // Eighths below 32: exact in bf16.
          p.k[static_cast<size_t>(i)] = static_cast<double>(i / 128 / 4 + i % 3) / 8;
        }
        for (int64_t i = 0; i < 700 * 384; ++i) {
          double& q = p.q[static_cast<size_t>(i)];
          q = i / 64 % 2 == 0 || q > 0 ? 1 : -1;
        }
        out.emplace_back(std::move(p), false);
      }
    }
    return out;
  }();
  CpuRun run(GetParam(), 2);
  for (const auto& [p, truth, plain] : solved) {
    SCOPED_TRACE(p.c.to_string());
    expect_forward(p, run_whole(p, run, true), truth, plain, "growing");
  }
}

TEST_P(AttentionForwardIsa, RepeatsBitForBit) {
  const AttentionProblem p({DType::kF32, 3, 1, 64, 600, pattern(32, 3, 1, 4)});
  for (const int threads : {1, 3}) {
    CpuRun run(GetParam(), threads);
    const Pages pages(p, p.documents[0], true);
    const Call whole{.sequences = {{0, 600, 0, pages.view}}},
        last{.sequences = {{599, 1, 599, pages.view}}};
    const AttentionResult first = run_call(p, run, whole), decode = run_call(p, run, last);
    for (int i = 0; i < 10; ++i) {
      ASSERT_EQ(run_call(p, run, whole).out, first.out);
      const AttentionResult again = run_call(p, run, last);
      ASSERT_TRUE(std::equal(again.out.end() - 192, again.out.end(), decode.out.end() - 192));
    }
  }
}

// The keys of block b start b * 2^27 elements in: past 2^31 from block 16 on. Untouched pages of
// the mapping cost nothing.
TEST_P(AttentionForwardIsa, OffsetsBeyond32Bits) {
  const AttentionProblem p({DType::kF32, 2, 1, 16, 16 * 20, pattern(16, 2, 1)});
  const int64_t page = int64_t{1} << 27, bytes = 20 * page * 4;
  const auto map = [&] {
    return mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  };
  KvView kv{.keys = map(),
            .values = map(),
            .page_stride = page,
            .head_stride = 16,
            .token_stride = 16,
            .length = 320};
  ASSERT_NE(kv.keys, MAP_FAILED);
  ASSERT_NE(kv.values, MAP_FAILED);
  CpuRun run(GetParam(), 2);
  Host k(DType::kF32, {320, 1, 16}), v(DType::kF32, {320, 1, 16});
  k.fill(p.k);
  v.fill(p.v);
  cpu_kv_write(kv, DType::kF32, 16, 0, k.tensor(), v.tensor(), run.context);
  const AttentionResult truth = p.truth(false);
  expect_forward(p, run_call(p, run, {.sequences = {{0, 320, 0, kv}}}), truth, {}, "whole");
  const AttentionResult last = run_call(p, run, {.sequences = {{319, 1, 319, kv}}});
  for (size_t i = last.out.size() - 32; i < last.out.size(); ++i) {
    EXPECT_NEAR(last.out[i], truth.out[i], 1e-5);
  }
  munmap(kv.keys, static_cast<size_t>(bytes));
  munmap(kv.values, static_cast<size_t>(bytes));
}

TEST_P(AttentionForwardIsa, ReleasedBlockThatAQuerySeesIsNamed) {
  const AttentionProblem p({DType::kF32, 1, 1, 16, 200, pattern(16, 2, 1)});
  CpuRun run(GetParam(), 2);
  Pages pages(p, p.documents[0], true);
  std::vector<int32_t> table(pages.view.block_table, pages.view.block_table + 13);
  table[7] = -1;
  pages.view.block_table = table.data();
  const auto run_at = [&](int64_t first, int64_t count) {
    run_call(p, run, {.sequences = {{first, count, first, pages.view}}});
  };
  run_at(9 * 16, 50);  // blocks 8 to 12 and the sink
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{8 * 16, 1}, {100, 100}}) {
    try {
      run_at(first, count);
      FAIL() << "block 7 was read";
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("block 7 has been released"));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, AttentionForwardIsa, ::testing::ValuesIn(available_cpu_isas()),
                         [](const auto& info) { return std::string(cpu_isa_name(info.param)); });

TEST(AttentionForward, RefusesWhatItCannotDo) {
  const AttentionProblem p({DType::kF32, 4, 2, 32, 20, pattern(16)});
  CpuRun run(CpuIsa::kPortable, 1);
  Host q(DType::kF32, {20, 4, 32}), k(DType::kF32, {20, 2, 32});
  const int64_t bytes =
      cpu_attention_forward_workspace_bytes({20, 4, 2, 32, DType::kF32}, run.context);
  auto storage = testing::poisoned(bytes);
  AttentionSequence s{.row_count = 20};
  s.kv = {.keys = k.tensor().raw(),
          .values = k.tensor().raw(),
          .page_stride = 16 * 64,
          .head_stride = 32,
          .token_stride = 64,
          .length = 20};
  const AttentionForward good{.out = q.tensor(),
                              .q = q.tensor(),
                              .sequences = {&s, 1},
                              .kv_dtype = DType::kF32,
                              .kv_heads = 2,
                              .pattern = &p.c.pattern,
                              .scale = 1,
                              .workspace = testing::aligned_span(storage, bytes)};
  const auto expect_error = [&](const AttentionForward& f, const std::string& text) {
    try {
      cpu_attention_forward(f, run.context);
      ADD_FAILURE() << "accepted; expected: " << text;
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr(text));
    }
  };
  AttentionForward f = good;
  f.kv_dtype = DType::kBF16;
  expect_error(f, "keys and values are bf16");
  f = good;
  f.kv_heads = 3;
  expect_error(f, "4 query heads, 3 KV heads");
  f = good;
  f.workspace = f.workspace.first(f.workspace.size() - 64);
  expect_error(f, "workspace");
  f = good;
  f.scale = 0;
  expect_error(f, "scale");
  f = good;
  f.out = q.tensor().slice(0, 0, 19);
  expect_error(f, "out is [19, 4, 32]");
  AttentionSequence late = s;
  late.first_position = 1;
  f = good;
  f.sequences = {&late, 1};
  expect_error(f, "positions [1, 21), but keys for 20");
  const AttentionPattern odd = pattern(48);
  f = good;
  f.pattern = &odd;
  expect_error(f, "block size 48");
  Host narrow(DType::kF32, {20, 4, 24});
  f = good;
  f.q = f.out = narrow.tensor();
  expect_error(f, "24");
  const Tensor f16(q.tensor().raw(), DType::kF16, {20, 4, 32});
  f = good;
  f.q = f.out = f16;
  expect_error(f, "f16");
}

}  // namespace
}  // namespace longgen
