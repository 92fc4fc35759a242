#include "longgen/cli/program.h"

#include <CLI/CLI.hpp>
#include <memory>
#include <vector>

#include "longgen/base/log.h"
#include "longgen/cli/command.h"
#include "longgen/cli/common.h"

namespace longgen::cli {
namespace {

// In the order that --help shows.
std::vector<std::unique_ptr<Command>> all_commands() {
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(make_demo_command());
  commands.push_back(make_inspect_command());
  commands.push_back(make_convert_command());
  commands.push_back(make_tokenize_command());
  commands.push_back(make_score_command());
  commands.push_back(make_train_command());
  commands.push_back(make_extend_command());
  commands.push_back(make_generate_command());
  commands.push_back(make_eval_command());
  return commands;
}

}  // namespace

int run_program(std::span<const std::string> arguments) {
  CLI::App app(
      "Extends a short-context language model to a long-context one that is cheap to train "
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
    // CLI11 takes a vector from its back.
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }
  set_up_logging(common.verbosity);
  for (size_t i = 0; i < commands.size(); ++i) {
    if (subcommands[i]->parsed()) return commands[i]->run();
  }
  return kUsage;
}

}  // namespace longgen::cli
