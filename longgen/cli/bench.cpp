// longgen bench: times operations and whole models, against the machine's peaks of the same run.
#include "longgen/base/error.h"
#include "longgen/cli/bench_common.h"

namespace longgen::cli {
namespace {

class BenchCommand : public Command {
 public:
  std::string name() const override { return "bench"; }
  std::string description() const override {
    return "Time attention, products, prefill, decode or training steps";
  }
  std::string example() const override { return "longgen bench prefill --lengths 2K,8K"; }
  void add_options(CLI::App&, const CommonOptions&) override {}
  int run() override { fail("bench is run through its commands"); }
  std::vector<std::unique_ptr<Command>> subcommands() override {
    std::vector<std::unique_ptr<Command>> commands;
    commands.push_back(make_bench_attention_command());
    commands.push_back(make_bench_gemm_command());
    commands.push_back(make_bench_prefill_command());
    commands.push_back(make_bench_decode_command());
    commands.push_back(make_bench_train_command());
    return commands;
  }
};

}  // namespace

std::unique_ptr<Command> make_bench_command() { return std::make_unique<BenchCommand>(); }

}  // namespace longgen::cli
