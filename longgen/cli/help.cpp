#include "longgen/cli/help.h"

#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "longgen/base/terminal.h"

namespace longgen::cli {
namespace {

constexpr size_t kNameColumns = 30;

// Of "INT:INT in [1 - 100]" the type, of "TEXT:{a,b}" the words.
std::string type_shown(const std::string& type) {
  const size_t colon = type.find(':');
  if (colon == std::string::npos) return type;
  return type[colon + 1] == '{' ? type.substr(colon + 1) : type.substr(0, colon);
}

}  // namespace

size_t help_width() {
  const int columns = terminal_columns(STDOUT_FILENO);
  return columns > 0 ? std::clamp<size_t>(static_cast<size_t>(columns), 60, 100) : 80;
}

std::string wrapped(const std::string& text, size_t width, const std::string& indent) {
  std::string result;
  size_t column = 0;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    // Lists without spaces go on behind a comma.
    for (size_t comma = 0; word.size() > width; word.erase(0, comma + 1)) {
      comma = word.rfind(',', width - 1);
      if (comma == std::string::npos) break;
      result += (column > 0 ? "\n" + indent : "") + word.substr(0, comma + 1);
      column = width;
    }
    if (column > 0 && column + 1 + word.size() > width) {
      result += "\n" + indent;
      column = 0;
    }
    if (column > 0) result += ' ';
    column += word.size() + (column > 0 ? 1 : 0);
    result += word;
  }
  return result;
}

std::string HelpFormatter::entry(const std::string& name, const std::string& description) const {
  const std::string indent(kNameColumns, ' ');
  std::string line = "  " + name;
  if (description.empty()) return line + "\n";
  if (line.size() >= kNameColumns) {
    line += "\n" + indent;
  } else {
    line.resize(kNameColumns, ' ');
  }
  return line + wrapped(description, width_ - kNameColumns, indent) + "\n";
}

std::string HelpFormatter::make_description(const CLI::App* app) const {
  return wrapped(app->get_description(), width_, "") + "\n";
}

std::string HelpFormatter::make_subcommand(const CLI::App* command) const {
  return entry(command->get_name(), command->get_description());
}

std::string HelpFormatter::make_option(const CLI::Option* option, bool is_positional) const {
  return entry(make_option_name(option, is_positional) + make_option_opts(option),
               make_option_desc(option));
}

// A flag that switches off is written "--no-bos{false}" where it is added.
std::string HelpFormatter::make_option_name(const CLI::Option* option, bool is_positional) const {
  std::string name = CLI::Formatter::make_option_name(option, is_positional);
  for (size_t open = 0; (open = name.find('{')) != std::string::npos;) {
    name.erase(open, name.find('}', open) + 1 - open);
  }
  return name;
}

std::string HelpFormatter::make_option_opts(const CLI::Option* option) const {
  std::string text;
  if (option->get_type_size() != 0) {
    const std::string type = type_shown(option->get_type_name());
    if (!type.empty()) text += " " + type;
    if (!option->get_default_str().empty()) text += "=" + option->get_default_str();
    if (option->get_expected_max() == CLI::detail::expected_max_vector_size) text += " ...";
  }
  return option->get_required() ? text + " (required)" : text;
}

}  // namespace longgen::cli
