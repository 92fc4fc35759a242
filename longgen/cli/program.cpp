#include "longgen/cli/program.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
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

// What is unknown comes before what is missing: the first is often why the second is.
std::string explain(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<const CLI::App*> chosen =
      app.get_subcommands([](const CLI::App* sub) { return sub->parsed(); });
  const std::vector<std::string> unknown = app.remaining(true);
  const std::string program = chosen.empty() ? "longgen" : "longgen " + chosen[0]->get_name();
  std::string what = error.what();
  if (!unknown.empty()) {
    const char* kind = chosen.empty() ? "command" : "argument";
    if (unknown[0].starts_with("-")) kind = "option";
    what = fmt::format("unknown {} {}", kind, unknown[0]);
  }
  return fmt::format("{}\nRun {} --help for what is possible.", what, program);
}

}  // namespace

int run_program(std::span<const std::string> arguments) {
  CLI::App app(
      "Extends a short-context language model to a long-context one that is cheap to train "
      "and to serve.",
      "longgen");
  app.set_version_flag("--version", "longgen " LONGGEN_VERSION);
  app.require_subcommand(1);

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
  if (arguments.empty()) {
    fmt::print(stderr, "{}", app.help());
    return kUsage;
  }
  try {
    // CLI11 takes a vector from its back.
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    fmt::print(stderr, "error: {}\n", explain(app, error));
    return kUsage;
  }
  set_up_logging(common.verbosity);
  for (size_t i = 0; i < commands.size(); ++i) {
    if (subcommands[i]->parsed()) return commands[i]->run();
  }
  return kUsage;
}

}  // namespace longgen::cli
