// A subcommand: parse, call the library, print.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "longgen/cli/common.h"

namespace longgen::cli {

class Command {
 public:
  virtual ~Command() = default;
  virtual std::string name() const = 0;
  virtual std::string description() const = 0;  // one line
  virtual std::string example() const = 0;      // one command line, shown at the end of --help
  // `common` outlives the command and is filled when run() is called.
  virtual void add_options(CLI::App& app, const CommonOptions& common) = 0;
  virtual int run() = 0;  // the exit code; errors are thrown
  // Commands of its own ("bench attention"); where there are any, run() is never called.
  virtual std::vector<std::unique_ptr<Command>> subcommands() { return {}; }
};

std::unique_ptr<Command> make_inspect_command();
std::unique_ptr<Command> make_convert_command();
std::unique_ptr<Command> make_tokenize_command();
std::unique_ptr<Command> make_score_command();
std::unique_ptr<Command> make_generate_command();
std::unique_ptr<Command> make_chat_command();
std::unique_ptr<Command> make_train_command();
std::unique_ptr<Command> make_extend_command();
std::unique_ptr<Command> make_eval_command();
std::unique_ptr<Command> make_demo_command();
std::unique_ptr<Command> make_bench_command();
std::unique_ptr<Command> make_completion_command();

}  // namespace longgen::cli
