// A recipe from the command line: --config FILE, then every recipe key as a flag of its own.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "longgen/train/recipe.h"

namespace longgen::train {

class RecipeFlags {
 public:
  // Adds --config and one flag a key; `output` is also -o. The object outlives the parsing. --help
  // shows the recipe's defaults, but `defaults`, by key, where the command has others; keys for
  // training from scratch are shown if `from_scratch`.
  void add_to(CLI::App& app, const std::map<std::string, std::string>& defaults = {},
              bool from_scratch = true);

  // Another flag for a key, for example --length for train.length. `flags` may also be a positional
  // name. Call it after add_to().
  CLI::Option* add_alias(CLI::App& app, const std::string& flags, const std::string& key,
                         const std::string& help);

  // The file's keys over `recipe`, then the flags over those. Returns the keys that were given.
  std::set<std::string> apply(Recipe& recipe) const;

 private:
  CLI::Option* add(CLI::App& app, const std::string& flags, const RecipeKey& key,
                   const std::string& help);

  std::string config_;
  std::map<std::string, std::vector<std::string>> words_;  // by key; empty: not given
};

}  // namespace longgen::train
