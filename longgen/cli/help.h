// How --help is laid out: no line is wider than the terminal, and types are named without what
// CLI11 adds for its checks.
#pragma once

#include <CLI/CLI.hpp>
#include <cstddef>
#include <string>

namespace longgen::cli {

// Columns of the terminal on standard output, from 60 to 100; 80 where there is none.
size_t help_width();

// `text` in lines of at most `width` columns, but for words that are wider and have no commas.
std::string wrapped(const std::string& text, size_t width, const std::string& indent);

class HelpFormatter : public CLI::Formatter {
 public:
  explicit HelpFormatter(size_t width) : width_(width) {}

  std::string make_description(const CLI::App* app) const override;
  std::string make_subcommand(const CLI::App* command) const override;
  std::string make_option(const CLI::Option* option, bool is_positional) const override;
  std::string make_option_name(const CLI::Option* option, bool is_positional) const override;
  // "INT=128", "{bash,zsh,fish} (required)".
  std::string make_option_opts(const CLI::Option* option) const override;

 private:
  std::string entry(const std::string& name, const std::string& description) const;

  size_t width_;
};

}  // namespace longgen::cli
