#include "longgen/cli/completion.h"

#include <fmt/ranges.h>

#include "longgen/base/error.h"
#include "longgen/cli/command.h"
#include "longgen/cli/common.h"

namespace longgen::cli {
namespace {

struct Flag {
  std::vector<std::string> names;  // "-n", "--max-new-tokens"
  std::string description;
  bool takes_value = false, takes_number = false;
  std::vector<std::string> values;  // what it may be, where that is a fixed set
};

// A command with the words that lead to it: "longgen bench attention".
struct Place {
  std::string path, description;
  std::vector<Flag> flags;
  std::vector<Place> commands;
};

// CLI11 writes the set of a checked option into its type: "TEXT:{a,b}".
std::vector<std::string> fixed_values(const std::string& type) {
  const size_t open = type.find('{'), close = type.rfind('}');
  std::vector<std::string> values;
  if (open == std::string::npos || close == std::string::npos || close < open) return values;
  for (size_t begin = open + 1; begin <= close;) {
    const size_t end = std::min(type.find(',', begin), close);
    values.push_back(type.substr(begin, end - begin));
    begin = end + 1;
  }
  return values;
}

Flag read_flag(const CLI::Option& option) {
  Flag flag;
  for (const std::string& name : option.get_snames())
    flag.names.push_back(fmt::format("-{}", name));
  for (const std::string& name : option.get_lnames())
    flag.names.push_back(fmt::format("--{}", name));
  flag.description = option.get_description();
  flag.takes_value = option.get_items_expected_max() > 0;
  const std::string type = option.get_type_name();
  flag.values = fixed_values(type);
  flag.takes_number = type.starts_with("INT") || type.starts_with("UINT") ||
                      type.starts_with("FLOAT") || type.starts_with("LENGTH");
  return flag;
}

Place read_place(const CLI::App& app, const std::string& path) {
  Place place{.path = path, .description = app.get_description(), .flags = {}, .commands = {}};
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_snames().empty() || !option->get_lnames().empty()) {
      place.flags.push_back(read_flag(*option));
      continue;
    }
    // An argument that is one of a few words completes as a command would.
    for (const std::string& word : fixed_values(option->get_type_name())) {
      place.commands.push_back({.path = fmt::format("{} {}", path, word),
                                .description = {},
                                .flags = {},
                                .commands = {}});
    }
  }
  for (const CLI::App* command : app.get_subcommands({})) {
    place.commands.push_back(read_place(*command, path + " " + command->get_name()));
  }
  return place;
}

// The place itself, then all below it.
std::vector<const Place*> all_places(const Place& place) {
  std::vector<const Place*> places = {&place};
  for (const Place& command : place.commands) {
    const auto below = all_places(command);
    places.insert(places.end(), below.begin(), below.end());
  }
  return places;
}

std::string last_word(const std::string& path) { return path.substr(path.rfind(' ') + 1); }

// "'longgen a'|'longgen b'": patterns of a case.
std::string command_patterns(const Place& root) {
  std::vector<std::string> patterns;
  for (const Place* place : all_places(root)) {
    if (place != &root) patterns.push_back(shell_quoted(place->path));
  }
  return fmt::format("{}", fmt::join(patterns, "|"));
}

// "'longgen eval -o'|'longgen eval --output'".
std::string flag_patterns(const Place& place, const Flag& flag) {
  std::vector<std::string> patterns;
  for (const std::string& name : flag.names)
    patterns.push_back(shell_quoted(place.path + " " + name));
  return fmt::format("{}", fmt::join(patterns, "|"));
}

std::string words(const std::vector<std::string>& list) {
  return fmt::format("{}", fmt::join(list, " "));
}

// --- bash ---

std::string bash_values(const Place& root) {
  std::string text;
  for (const Place* place : all_places(root)) {
    for (const Flag& flag : place->flags) {
      if (!flag.takes_value) continue;
      const std::string action =
          !flag.values.empty() ? fmt::format("COMPREPLY=($(compgen -W {} -- \"$word\"))",
                                             shell_quoted(words(flag.values)))
          : flag.takes_number  ? "compopt +o default +o bashdefault 2>/dev/null"
                               : ":";
      text += fmt::format("    {}) {}; return ;;\n", flag_patterns(*place, flag), action);
    }
  }
  return text;
}

std::string bash_places(const Place& root) {
  std::string text;
  for (const Place* place : all_places(root)) {
    std::vector<std::string> flags, commands;
    for (const Flag& flag : place->flags) {
      flags.insert(flags.end(), flag.names.begin(), flag.names.end());
    }
    for (const Place& command : place->commands) commands.push_back(last_word(command.path));
    text += fmt::format("    {}) flags={} commands={} ;;\n", shell_quoted(place->path),
                        shell_quoted(words(flags)), shell_quoted(words(commands)));
  }
  return text;
}

std::string bash_script(const Place& root) {
  return fmt::format(
      R"(# bash completion of longgen, made by: longgen completion bash
_longgen() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
  local at=longgen flags commands i
  for ((i = 1; i < COMP_CWORD; ++i)); do
    case "$at ${{COMP_WORDS[i]}}" in
    {}) at="$at ${{COMP_WORDS[i]}}" ;;
    esac
  done
  COMPREPLY=()
  case "$at $before" in
{}  esac
  case "$at" in
{}  esac
  if [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$word"))
  elif [[ -n $commands ]]; then
    COMPREPLY=($(compgen -W "$commands" -- "$word"))
  fi
}}
# Where the function has nothing to say, files.
complete -o default -o bashdefault -F _longgen longgen
)",
      command_patterns(root), bash_values(root), bash_places(root));
}

// --- zsh ---

// 'word:what it is' for _describe.
std::string zsh_entry(const std::string& word, const std::string& description) {
  return shell_quoted(word, ":") + shell_quoted(":" + description, "\\");
}

std::string zsh_script(const Place& root) {
  std::string values, places;
  for (const Place* place : all_places(root)) {
    std::string flags, commands;
    for (const Flag& flag : place->flags) {
      for (const std::string& name : flag.names) {
        flags += fmt::format(" {}", zsh_entry(name, flag.description));
      }
      if (!flag.takes_value) continue;
      const std::string action = !flag.values.empty() ? "compadd -- " + words(flag.values)
                                 : flag.takes_number  ? "_message 'a number'"
                                                      : "_files";
      values += fmt::format("    ({}) {}; return ;;\n", flag_patterns(*place, flag), action);
    }
    for (const Place& command : place->commands) {
      commands += fmt::format(" {}", zsh_entry(last_word(command.path), command.description));
    }
    places += fmt::format("    ({}) flags=({})\n      commands=({}) ;;\n",
                          shell_quoted(place->path), flags, commands);
  }
  return fmt::format(
      R"(#compdef longgen
# zsh completion of longgen, made by: longgen completion zsh
_longgen() {{
  local at=longgen word
  local -a flags commands
  for word in ${{words[2,CURRENT-1]}}; do
    case "$at $word" in
    ({}) at="$at $word" ;;
    esac
  done
  case "$at ${{words[CURRENT-1]}}" in
{}  esac
  case "$at" in
{}  esac
  if [[ $PREFIX == -* ]]; then
    _describe -o flag flags
  elif (( $#commands )); then
    _describe command commands
  else
    _files
  fi
}}
if [[ $funcstack[1] == _longgen ]]; then
  _longgen "$@"
else
  compdef _longgen longgen
fi
)",
      command_patterns(root), values, places);
}

// --- fish ---

std::string fish_flag(const std::string& condition, const Flag& flag) {
  std::string line = "complete -c longgen " + condition;
  for (const std::string& name : flag.names) {
    line += name.starts_with("--") ? fmt::format(" -l {}", name.substr(2))
                                   : fmt::format(" -s {}", name.substr(1));
  }
  if (!flag.values.empty()) {
    line += " -x -a " + shell_quoted(words(flag.values));
  } else if (flag.takes_number) {
    line += " -x";
  } else if (flag.takes_value) {
    line += " -r -F";
  }
  return line + " -d " + shell_quoted(flag.description, "\\") + "\n";
}

std::string fish_script(const Place& root) {
  std::vector<std::string> paths;
  std::string lines;
  for (const Place* place : all_places(root)) {
    if (place != &root) paths.push_back(shell_quoted(place->path));
    const std::string condition =
        "-n " + shell_quoted("test (__longgen_at) = \"" + place->path + "\"");
    for (const Flag& flag : place->flags) lines += fish_flag(condition, flag);
    for (const Place& command : place->commands) {
      lines += fmt::format("complete -c longgen {} -f -a {} -d {}\n", condition,
                           last_word(command.path), shell_quoted(command.description, "\\"));
    }
  }
  return fmt::format(
      R"(# fish completion of longgen, made by: longgen completion fish
function __longgen_at
    set -l at longgen
    for word in (commandline -opc)[2..-1]
        if contains -- "$at $word" {}
            set at "$at $word"
        end
    end
    echo $at
end
{})",
      fmt::join(paths, " "), lines);
}

class CompletionCommand : public Command {
 public:
  std::string name() const override { return "completion"; }
  std::string description() const override { return "Print a script that completes in your shell"; }
  std::string example() const override {
    return "longgen completion bash  # in ~/.bashrc: source <(longgen completion bash)";
  }
  void add_options(CLI::App& app, const CommonOptions&) override {
    app_ = &app;
    app.add_option("shell", shell_, "Which shell")
        ->required()
        ->check(CLI::IsMember(completion_shells()));
  }
  int run() override {
    fmt::print("{}", completion_script(*app_->get_parent(), shell_));
    return 0;
  }

 private:
  const CLI::App* app_ = nullptr;
  std::string shell_;
};

}  // namespace

std::vector<std::string> completion_shells() { return {"bash", "zsh", "fish"}; }

std::string completion_script(const CLI::App& program, const std::string& shell) {
  const Place root = read_place(program, "longgen");
  if (shell == "bash") return bash_script(root);
  if (shell == "zsh") return zsh_script(root);
  if (shell == "fish") return fish_script(root);
  fail_usage("no completion for {}; use {}", shell, fmt::join(completion_shells(), ", "));
}

std::unique_ptr<Command> make_completion_command() { return std::make_unique<CompletionCommand>(); }

}  // namespace longgen::cli
