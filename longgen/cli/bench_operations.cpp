// longgen bench attention, longgen bench gemm: operations alone.
#include <algorithm>
#include <charconv>
#include <map>
#include <utility>

#include "bench/attention.h"
#include "bench/products.h"
#include "bench/shapes.h"
#include "longgen/base/error.h"
#include "longgen/base/units.h"
#include "longgen/cli/bench_common.h"

namespace longgen::cli {
namespace {

// "9:3" or "2048x1536x576".
std::vector<int64_t> parse_numbers(const std::string& text, char separator, size_t count,
                                   const char* what) {
  std::vector<int64_t> numbers;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    numbers.push_back(parse_length(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  for (const int64_t number : numbers) {
    if (number < 1 || numbers.size() != count) fail_usage("{}: write {}", text, what);
  }
  return numbers;
}

// The names that an option takes, and what they stand for.
const std::map<std::string, bench::Direction> kDirections = {
    {"forward", bench::Direction::kForward},
    {"backward", bench::Direction::kBackward},
    {"decode", bench::Direction::kDecode}};
const std::map<std::string, bench::Product> kProducts = {{"forward", bench::Product::kForward},
                                                         {"dx", bench::Product::kInput},
                                                         {"dw", bench::Product::kWeight}};

template <typename Value>
std::vector<Value> chosen(const std::vector<std::string>& names,
                          const std::map<std::string, Value>& known) {
  std::vector<Value> values;
  values.reserve(names.size());
  for (const std::string& name : names) values.push_back(known.at(name));
  return values;
}

class BenchAttentionCommand : public Command {
 public:
  std::string name() const override { return "attention"; }
  std::string description() const override {
    return "Attention of one layer: any pattern, shape and direction";
  }
  std::string example() const override {
    return "longgen bench attention --heads 9:3 --head-dim 64 --lengths 8K,32K \\\n"
           "      --pattern full sink-window --direction forward backward";
  }

  void add_options(CLI::App& app, const CommonOptions& common) override {
    common_ = &common;
    app.add_option("--heads", heads_, "Query heads : KV heads")->capture_default_str();
    app.add_option("--head-dim", head_dim_, "Channels of a head")->capture_default_str();
    add_lengths_option(app, "--lengths", lengths_, "Tokens of the document (8K)");
    app.add_option("--pattern,--hybrid", patterns_,
                   "full, sink-window, strided, local:N,sink:N,stride:N,block:N, or a hybrid text");
    app.add_option("--direction", directions_, "What to time")->check(CLI::IsMember(kDirections));
    app.add_option("--batch", batch_, "Sequences of a decode step")->capture_default_str();
    app.add_flag("--in-turns", in_turns_,
                 "Time the patterns of a length and direction in turns of equal time");
    options_.add_to(app);
  }

  int run() override {
    const auto heads = parse_numbers(heads_, ':', 2, "query heads and KV heads as 9:3");
    bench::check_heads(heads[0], heads[1]);  // before peaks are measured
    const auto directions = chosen(directions_, kDirections);
    if (in_turns_ && options_.breakdown) {
      fail_usage("--in-turns: --breakdown cannot tell the patterns apart; leave one out");
    }
    std::vector<bench::AttentionCase> cases;
    for (const int64_t length : lengths_) {
      for (const std::string& pattern : patterns_) {
        for (const bench::Direction direction : directions) {
          if (in_turns_ && direction == bench::Direction::kDecode) {
            fail_usage("--in-turns goes with --direction forward and backward, not with decode");
          }
          cases.push_back({.q_heads = heads[0],
                           .kv_heads = heads[1],
                           .head_dim = head_dim_,
                           .length = length,
                           .batch = batch_,
                           .pattern = bench::parse_pattern(pattern, heads[1]),
                           .direction = direction,
                           .seed = common_->seed});
        }
      }
    }
    BenchReport report(*common_, options_);
    for (bench::AttentionCase& c : cases) c.dtype = bench_dtype(*common_, report.backend());
    if (in_turns_) {
      take_turns(std::move(cases), report);
      return 0;
    }
    for (const bench::AttentionCase& c : cases) {
      report.row(bench::measure_attention(c, report.backend(), options_.repeats));
    }
    return 0;
  }

 private:
  // The patterns of each length and direction against each other.
  void take_turns(std::vector<bench::AttentionCase> cases, BenchReport& report) const {
    const auto apart = [](const bench::AttentionCase& c) {
      return std::pair(c.length, c.direction);
    };
    std::stable_sort(cases.begin(), cases.end(),
                     [&](const auto& a, const auto& b) { return apart(a) < apart(b); });
    for (auto begin = cases.begin(); begin != cases.end();) {
      const auto end = std::find_if(begin, cases.end(),
                                    [&](const auto& c) { return apart(c) != apart(*begin); });
      for (const bench::Measurement& row :
           bench::measure_attention_in_turns({begin, end}, report.backend(), options_.repeats)) {
        report.row(row);
      }
      begin = end;
    }
  }

  const CommonOptions* common_ = nullptr;
  BenchOptions options_;
  std::string heads_ = "9:3";
  int64_t head_dim_ = 64, batch_ = 1;
  bool in_turns_ = false;
  std::vector<int64_t> lengths_ = {8192};
  std::vector<std::string> patterns_ = {"full"}, directions_ = {"forward", "backward"};
};

class BenchGemmCommand : public Command {
 public:
  std::string name() const override { return "gemm"; }
  std::string description() const override {
    return "Matrix products: given sizes, or those of a model";
  }
  std::string example() const override {
    return "longgen bench gemm --shape smollm2-135m --tokens 2K --direction forward dx dw";
  }

  void add_options(CLI::App& app, const CommonOptions& common) override {
    common_ = &common;
    app.add_option("--size", sizes_, "MxNxK of y [M, N] = x [M, K] w^T; repeat it for several")
        ->type_name("MxNxK");
    app.add_option("--shape", shape_, "All products of a model of this shape")
        ->check(CLI::IsMember(bench::shape_names()));
    add_lengths_option(app, "--tokens", tokens_, "Rows of the model's products (2K)");
    app.add_option("--direction", directions_, "What to time")->check(CLI::IsMember(kProducts));
    options_.add_to(app);
  }

  int run() override {
    const auto directions = chosen(directions_, kProducts);
    std::vector<bench::ProductCase> cases;
    for (const bench::Product direction : directions) {
      for (const std::string& size : sizes_) {
        const auto mnk = parse_numbers(size, 'x', 3, "rows, columns and depth as 2048x1536x576");
        cases.push_back({mnk[0], mnk[1], mnk[2], direction});
      }
      if (!sizes_.empty() && shape_.empty()) continue;
      const auto config = bench::shape_config(shape_.empty() ? "smollm2-135m" : shape_);
      for (const int64_t tokens : tokens_) {
        const auto own = bench::products_of(config, tokens, direction, DType::kF32);
        cases.insert(cases.end(), own.begin(), own.end());
      }
    }
    BenchReport report(*common_, options_);
    for (bench::ProductCase& c : cases) {
      c.dtype = bench_dtype(*common_, report.backend());
      c.seed = common_->seed;
      if (!options_.no_peak && bench::is_measured_in_turn(c, report.backend())) {
        const auto [hot, rested] =
            bench::measure_product_in_turn(c, report.backend(), options_.repeats);
        report.row(hot);
        report.row(rested);
      } else {
        report.row(bench::measure_product(c, report.backend(), options_.repeats));
      }
    }
    report.finish();
    return 0;
  }

 private:
  const CommonOptions* common_ = nullptr;
  BenchOptions options_;
  std::string shape_;
  std::vector<std::string> sizes_, directions_ = {"forward"};
  std::vector<int64_t> tokens_ = {2048};
};

}  // namespace

std::unique_ptr<Command> make_bench_attention_command() {
  return std::make_unique<BenchAttentionCommand>();
}

std::unique_ptr<Command> make_bench_gemm_command() { return std::make_unique<BenchGemmCommand>(); }

}  // namespace longgen::cli
