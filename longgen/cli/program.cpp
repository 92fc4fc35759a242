#include "longgen/cli/program.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/base/log.h"
#include "longgen/cli/command.h"
#include "longgen/cli/common.h"
#include "longgen/cli/help.h"
#include "longgen/cli/version.h"

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
  commands.push_back(make_chat_command());
  commands.push_back(make_eval_command());
  commands.push_back(make_bench_command());
  commands.push_back(make_completion_command());
  return commands;
}

// What is unknown comes before what is missing: the first is often why the second is.
std::string explain(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<const CLI::App*> chosen =
      app.get_subcommands([](const CLI::App* sub) { return sub->parsed(); });
  const std::vector<std::string> unknown = app.remaining(true);
  std::string program = "longgen";
  const CLI::App* innermost = &app;
  for (auto parsed = chosen; !parsed.empty();) {
    innermost = parsed[0];
    program += " " + innermost->get_name();
    parsed = innermost->get_subcommands([](const CLI::App* sub) { return sub->parsed(); });
  }
  std::string what = error.what();
  std::vector<std::string> commands;
  for (const CLI::App* command : innermost->get_subcommands({})) {
    commands.push_back(command->get_name());
  }
  const bool command_expected = !commands.empty();
  if (command_expected && unknown.empty() && error.get_name() == "RequiredError") {
    what = fmt::format("name one of: {}", fmt::join(commands, ", "));
  }
  // "--seed: At Most 1 required but received 2"
  static constexpr std::string_view kTooMany = ": At Most 1 required but received ";
  if (const size_t at = what.find(kTooMany); at != what.npos) {
    what = fmt::format("{} is given {} times; once is enough", what.substr(0, at),
                       what.substr(at + kTooMany.size()));
  }
  if (!unknown.empty()) {
    const char* kind = command_expected ? "command" : "argument";
    if (unknown[0].starts_with("-")) kind = "option";
    what = fmt::format("unknown {} {}", kind, unknown[0]);
  }
  return fmt::format("{}\nRun {} --help for what is possible.", what, program);
}

// An empty value is what a script's unset variable leaves, and would pass for 0 or for the current
// folder. Only texts may be empty, and recipe keys (--model.hybrid), which know what they take.
void refuse_empty_values(CLI::App& app) {
  static constexpr std::array<std::string_view, 4> kTexts = {"--prompt", "--system", "--stop",
                                                             "--set"};
  for (CLI::Option* option : app.get_options()) {
    const std::string name = option->get_name(false, true);
    const bool text = std::any_of(kTexts.begin(), kTexts.end(), [&](std::string_view may_be_empty) {
      return name.find(may_be_empty) != name.npos;
    });
    if (option->get_expected_max() == 0 || text || name.find('.') != name.npos) continue;
    option->check([](const std::string& value) {
      return value.empty() ? std::string("the value is empty") : std::string();
    });
  }
}

// A command, its options and its own commands, and what runs it.
struct Registered {
  Command* command = nullptr;
  CLI::App* app = nullptr;
};

void add_command(CLI::App& parent, Command& command, CommonOptions& common,
                 std::vector<std::unique_ptr<Command>>& owned, std::vector<Registered>& runnable) {
  CLI::App* app = parent.add_subcommand(command.name(), command.description());
  app->footer("Example:\n  " + command.example());
  auto own = command.subcommands();
  if (own.empty()) {
    add_common_options(*app, common);
    command.add_options(*app, common);
    refuse_empty_values(*app);
    runnable.push_back({&command, app});
    return;
  }
  app->require_subcommand(1);
  for (auto& sub : own) {
    owned.push_back(std::move(sub));
    add_command(*app, *owned.back(), common, owned, runnable);
  }
}

}  // namespace

int run_program(std::span<const std::string> arguments) {
  CLI::App app(
      "Extends a short-context language model to a long-context one that is cheap to train "
      "and to serve.",
      "longgen");
  app.formatter(std::make_shared<HelpFormatter>(help_width()));
  app.set_version_flag("--version", version_text,
                       "Print the version, build, devices and libraries");
  bool check_only = false;
  app.add_flag("--check", check_only, "Check the command line that follows, but do not run it");
  app.require_subcommand(1);

  CommonOptions common;
  const auto commands = all_commands();
  std::vector<std::unique_ptr<Command>> subcommands;
  std::vector<Registered> runnable;
  for (const auto& command : commands) add_command(app, *command, common, subcommands, runnable);
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
  if (check_only) return 0;
  set_up_logging(common.verbosity);
  for (const Registered& each : runnable) {
    if (each.app->parsed()) return each.command->run();
  }
  return kUsage;
}

}  // namespace longgen::cli
