#include "bench/attention.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#include "bench/shapes.h"
#include "longgen/backend/device_queue.h"
#include "longgen/base/checked.h"
#include "longgen/base/rng.h"
#include "longgen/base/system.h"
#include "longgen/base/units.h"
#include "longgen/pattern/hybrid_spec.h"
#include "longgen/tensor/arena.h"

namespace longgen::bench {
namespace {

constexpr double kBeyondCaches = 256e6;  // bytes
constexpr int kCallsOfStep = 32;         // or a few more: what begins and ends a step is not theirs

std::span<std::byte> bytes_of(const Tensor& x) {
  return {static_cast<std::byte*>(x.raw()), static_cast<size_t>(x.bytes())};
}

double pairs(const AttentionCase& c, int64_t begin) {
  double sum = 0;
  for (int64_t head = 0; head < c.kv_heads; ++head) {
    sum += static_cast<double>(c.pattern.pairs(begin, c.length, head));
  }
  const int64_t group = c.q_heads / c.kv_heads;
  return sum * static_cast<double>(group);
}

// A document's tensors, and the two calls over them.
class Document {
 public:
  Document(const AttentionCase& c, Backend& backend)
      : c_(c), backend_(backend), arena_("attention", backend.memory(), capacity(c, backend)) {
    q_ = random({c.length, c.q_heads, c.head_dim}, 1);
    k_ = random({c.length, c.kv_heads, c.head_dim}, 2);
    v_ = random({c.length, c.kv_heads, c.head_dim}, 3);
    out_ = arena_.allocate("out", c.dtype, q_.shape());
    lse_ = arena_.allocate("lse", accumulation_dtype(c.dtype), {c.q_heads, c.length});
    workspace_ = arena_.allocate("workspace", DType::kU8, {workspace_bytes(c, backend)});
    if (c.direction != Direction::kBackward) return;
    dout_ = random({c.length, c.q_heads, c.head_dim}, 4);
    dq_ = arena_.allocate("dq", c.dtype, q_.shape());
    dk_ = arena_.allocate("dk", c.dtype, k_.shape());
    dv_ = arena_.allocate("dv", c.dtype, v_.shape());
  }

  void forward() {
    const AttentionSequence sequence{.row_begin = 0,
                                     .row_count = c_.length,
                                     .first_position = 0,
                                     .kv = {.keys = k_.raw(),
                                            .values = v_.raw(),
                                            .page_stride = c_.pattern.block_size * k_.stride(0),
                                            .head_stride = k_.stride(1),
                                            .token_stride = k_.stride(0),
                                            .length = c_.length}};
    backend_.attention_forward({.out = out_,
                                .lse = lse_,
                                .q = q_,
                                .sequences = {&sequence, 1},
                                .kv_dtype = c_.dtype,
                                .kv_heads = c_.kv_heads,
                                .pattern = &c_.pattern,
                                .scale = scale(),
                                .workspace = bytes_of(workspace_)});
  }

  void backward() {
    const DocumentRange whole{0, c_.length};
    backend_.attention_backward({.dq = dq_,
                                 .dk = dk_,
                                 .dv = dv_,
                                 .dout = dout_,
                                 .out = out_,
                                 .q = q_,
                                 .k = k_,
                                 .v = v_,
                                 .lse = lse_,
                                 .documents = {&whole, 1},
                                 .pattern = &c_.pattern,
                                 .scale = scale(),
                                 .workspace = bytes_of(workspace_)});
  }

 private:
  static AttentionShape shape(const AttentionCase& c) {
    return {c.length, c.q_heads, c.kv_heads, c.head_dim, c.dtype};
  }
  static int64_t workspace_bytes(const AttentionCase& c, const Backend& backend) {
    const int64_t forward = backend.attention_forward_workspace_bytes(shape(c));
    if (c.direction == Direction::kForward) return forward;
    return std::max(forward, backend.attention_backward_workspace_bytes(shape(c)));
  }
  static int64_t capacity(const AttentionCase& c, const Backend& backend) {
    const int64_t rows = 4 * (c.length * (c.q_heads + c.kv_heads) * c.head_dim);
    return rows * dtype_size(c.dtype) + c.q_heads * c.length * 4 + workspace_bytes(c, backend) +
           4096;
  }
  double scale() const { return 1 / std::sqrt(static_cast<double>(c_.head_dim)); }
  Tensor random(std::initializer_list<int64_t> shape, uint64_t stream) {
    const Tensor x = arena_.allocate("random", c_.dtype, shape);
    fill_random(x, 1, c_.seed + stream, &backend_);
    return x;
  }

  const AttentionCase& c_;
  Backend& backend_;
  Arena arena_;
  Tensor q_, k_, v_, out_, lse_, dout_, dq_, dk_, dv_, workspace_;
};

double document_flops(const AttentionCase& c) {
  const double of_pair = c.direction == Direction::kForward ? 4 : 10;
  return of_pair * static_cast<double>(c.head_dim) * pairs(c, 0);
}

// Sequences whose keys lie in pages as a KV cache keeps them: a page is one block of all heads,
// keys then values, and only live blocks have one.
class PagedBatch {
 public:
  PagedBatch(const AttentionCase& c, Backend& backend)
      : c_(c),
        backend_(backend),
        blocks_(ceil_div(c.length, c.pattern.block_size)),
        arena_("decode attention", backend.memory(), capacity(c, backend)) {
    const int64_t page = 2 * c.kv_heads * c.pattern.block_size * c.head_dim;
    const int64_t live = live_blocks(c);
    pages_ = arena_.allocate("pages", c.dtype, {c.batch * live, page});
    fill_random(pages_, 1, c.seed + 1, &backend);
    q_ = arena_.allocate("q", c.dtype, {c.batch, c.q_heads, c.head_dim});
    fill_random(q_, 1, c.seed + 2, &backend);
    out_ = arena_.allocate("out", c.dtype, q_.shape());
    workspace_ = arena_.allocate("workspace", DType::kU8,
                                 {backend.attention_forward_workspace_bytes(
                                     {c.batch, c.q_heads, c.kv_heads, c.head_dim, c.dtype})});
    for (int64_t i = 0; i < c.batch; ++i) add_sequence(i, page);
  }

  // Keys and values that a call reads.
  static int64_t page_bytes(const AttentionCase& c) {
    return live_blocks(c) * c.pattern.block_size * c.batch * 2 * c.kv_heads * c.head_dim *
           dtype_size(c.dtype);
  }

  // All heads must see the same blocks: a page holds them all.
  static int64_t live_blocks(const AttentionCase& c) {
    for (int64_t head = 1; head < c.kv_heads; ++head) {
      if (!c.pattern.same_for_heads(0, head)) {
        fail_usage("decode of {}: offsets that differ by head are measured by \"bench decode\"",
                   c.pattern.to_string());
      }
    }
    return c.pattern.live_blocks(ceil_div(c.length, c.pattern.block_size), c.length - 1, 0);
  }

  void decode() {
    backend_.attention_forward({.out = out_,
                                .lse = Tensor(),
                                .q = q_,
                                .sequences = sequences_,
                                .kv_dtype = c_.dtype,
                                .kv_heads = c_.kv_heads,
                                .pattern = &c_.pattern,
                                .scale = 1 / std::sqrt(static_cast<double>(c_.head_dim)),
                                .workspace = bytes_of(workspace_)});
  }

 private:
  static int64_t capacity(const AttentionCase& c, const Backend& backend) {
    const int64_t pages =
        2 * c.batch * live_blocks(c) * c.kv_heads * c.pattern.block_size * c.head_dim;
    return (pages + 2 * c.batch * c.q_heads * c.head_dim) * dtype_size(c.dtype) + 4096 +
           backend.attention_forward_workspace_bytes(
               {c.batch, c.q_heads, c.kv_heads, c.head_dim, c.dtype});
  }

  void add_sequence(int64_t index, int64_t page) {
    tables_.emplace_back(static_cast<size_t>(blocks_), -1);
    for (int64_t block = 0; block < blocks_; ++block) {
      if (c_.pattern.is_live(block, c_.length - 1, 0)) {
        tables_.back()[static_cast<size_t>(block)] = next_page_++;
      }
    }
    auto* base = static_cast<std::byte*>(pages_.raw());
    sequences_.push_back({.row_begin = index,
                          .row_count = 1,
                          .first_position = c_.length - 1,
                          .kv = {.keys = base,
                                 .values = base + page / 2 * dtype_size(c_.dtype),
                                 .page_stride = page,
                                 .head_stride = c_.pattern.block_size * c_.head_dim,
                                 .token_stride = c_.head_dim,
                                 .block_table = tables_.back().data(),
                                 .block_table_size = blocks_,
                                 .length = c_.length}});
  }

  const AttentionCase& c_;
  Backend& backend_;
  int64_t blocks_;
  Arena arena_;
  Tensor pages_, q_, out_, workspace_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<AttentionSequence> sequences_;
  int32_t next_page_ = 0;
};

void describe(const AttentionCase& c, Measurement& m) {
  m.dtype = c.dtype;
  m.name = fmt::format("{}:{} x {}, {}, {}, {}", c.q_heads, c.kv_heads, c.head_dim,
                       format_length(c.length), c.pattern.to_string(), direction_name(c.direction));
  m.parameters = {{"q_heads", c.q_heads},
                  {"kv_heads", c.kv_heads},
                  {"head_dim", c.head_dim},
                  {"length", c.length},
                  {"pattern", c.pattern.to_string()},
                  {"block_size", c.pattern.block_size},
                  {"direction", direction_name(c.direction)}};
  if (c.direction == Direction::kDecode) m.parameters["batch"] = c.batch;
}

}  // namespace

std::string direction_name(Direction direction) {
  switch (direction) {
    case Direction::kForward:
      return "forward";
    case Direction::kBackward:
      return "backward";
    case Direction::kDecode:
      break;
  }
  return "decode";
}

AttentionPattern parse_pattern(const std::string& text, int64_t kv_heads) {
  if (text == "full") return AttentionPattern::full();
  const bool whole = text.find("sparse=") != std::string::npos;
  const HybridSpec spec = HybridSpec::parse(whole ? text : "full=middle:0 sparse=" + text);
  HybridSpec sparse_only = spec;
  sparse_only.placement = HybridSpec::Placement::kMiddle;
  sparse_only.numerator = 0;
  sparse_only.is_fraction = false;
  return sparse_only.resolve(1, kv_heads)[0];
}

void check_heads(int64_t q_heads, int64_t kv_heads) {
  if (q_heads % kv_heads != 0) {
    fail_usage("--heads {}:{}: query heads must be a multiple of KV heads", q_heads, kv_heads);
  }
}

Measurement measure_attention(const AttentionCase& c, Backend& backend, const Repeats& repeats) {
  check_heads(c.q_heads, c.kv_heads);
  Measurement m;
  const double head_dim = static_cast<double>(c.head_dim);
  reset_peak_resident();
  if (c.direction == Direction::kDecode) {
    // On a device, caches that together are larger than what it keeps close by, in turn, and calls
    // one behind the other in a graph, as the layers of a step are.
    const bool on_device = device_queue(backend) != nullptr;
    const auto bytes = static_cast<double>(PagedBatch::page_bytes(c));
    const int copies =
        on_device ? static_cast<int>(std::clamp(kBeyondCaches / bytes, 1.0, 64.0)) : 1;
    const int calls = on_device ? copies * ceil_div(kCallsOfStep, copies) : 1;
    std::vector<std::unique_ptr<PagedBatch>> batches;
    batches.reserve(static_cast<size_t>(copies));
    for (int i = 0; i < copies; ++i) batches.push_back(std::make_unique<PagedBatch>(c, backend));
    size_t next = 0;
    m.timing = measure_calls(
        backend, [&] { batches[next++ % batches.size()]->decode(); }, calls, repeats);
    m.flops = 4 * head_dim * pairs(c, c.length - 1) * static_cast<double>(c.batch);
    m.bytes = bytes;
    m.tokens = static_cast<double>(c.batch);
  } else {
    Document document(c, backend);
    const bool forward = c.direction == Direction::kForward;
    document.forward();  // what backward needs
    m.timing = forward ? measure_calls(
                             backend, [&] { document.forward(); }, 1, repeats)
                       : measure_call(
                             backend, [&] { document.backward(); }, repeats);
    m.flops = document_flops(c);
  }
  finish_breakdown(backend, m.timing.total(), m);
  describe(c, m);
  return m;
}

std::vector<Measurement> measure_attention_in_turns(std::span<const AttentionCase> cases,
                                                    Backend& backend, const Repeats& repeats) {
  std::vector<std::unique_ptr<Document>> documents;
  std::vector<std::function<void()>> calls;
  for (const AttentionCase& c : cases) {
    check_heads(c.q_heads, c.kv_heads);
    if (c.direction == Direction::kDecode) fail_usage("decode is not measured in turns");
    documents.push_back(std::make_unique<Document>(c, backend));
    Document& document = *documents.back();
    document.forward();  // what backward needs
    const bool forward = c.direction == Direction::kForward;
    calls.emplace_back([&document, forward] {
      if (forward) {
        document.forward();
      } else {
        document.backward();
      }
    });
  }
  const std::vector<std::vector<double>> rounds = measure_in_turns(backend, calls, repeats);
  std::vector<Measurement> rows(cases.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].timing = timing_of(rounds[i]);
    rows[i].flops = document_flops(cases[i]);
    describe(cases[i], rows[i]);
    rows[i].parameters["round_seconds"] = rounds[i];
  }
  return rows;
}

}  // namespace longgen::bench
