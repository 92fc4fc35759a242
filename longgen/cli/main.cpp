#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <memory>
#include <vector>

#include "longgen/base/error.h"
#include "longgen/base/log.h"
#include "longgen/cli/command.h"
#include "longgen/cli/common.h"

namespace longgen::cli {
namespace {

constexpr int kFailure = 1, kUsage = 2;

std::vector<std::unique_ptr<Command>> all_commands() {
  std::vector<std::unique_ptr<Command>> commands;
  // One line a command, in the order that --help shows (a new command's file adds its line here).
  commands.push_back(make_inspect_command());
  commands.push_back(make_convert_command());
  commands.push_back(make_train_command());
  commands.push_back(make_extend_command());
  return commands;
}

int run(int argc, char** argv) {
  CLI::App app("Extends a short-context language model to a long-context one that is cheap to train "
               "and to serve.",
               "longgen");
  app.set_version_flag("--version", "longgen " LONGGEN_VERSION);
  app.require_subcommand(1);
  app.failure_message([](const CLI::App*, const CLI::Error& error) {
    return fmt::format("error: {}\nRun with --help for what is possible.\n", error.what());
  });

  CommonOptions common;
  const auto commands = all_commands();
  std::vector<CLI::App*> subcommands;
  for (const auto& command : commands) {
    CLI::App* sub = app.add_subcommand(command->name(), command->description());
    sub->footer("Example:\n  " + command->example());
    add_common_options(*sub, common);
    command->add_options(*sub, common);
    subcommands.push_back(sub);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }
  set_up_logging(common.verbosity);
  for (size_t i = 0; i < commands.size(); ++i) {
    if (subcommands[i]->parsed()) return commands[i]->run();
  }
  return kUsage;
}

}  // namespace
}  // namespace longgen::cli

int main(int argc, char** argv) {
  try {
    return longgen::cli::run(argc, argv);
  } catch (const longgen::UsageError& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return longgen::cli::kUsage;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "error: out of memory\n");
    return longgen::cli::kFailure;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return longgen::cli::kFailure;
  }
}
