#include "longgen/train/recipe_flags.h"

#include <algorithm>
#include <string_view>

#include "longgen/base/error.h"

namespace longgen::train {
namespace {

std::string group_of(const std::string& name) {
  if (name.starts_with("model.")) return "Model";
  if (name.starts_with("data.")) return "Data";
  return name.starts_with("train.") ? "Training" : "Options";
}

// What the help of keys begins with that only training from scratch reads.
constexpr std::string_view kFromScratch = "From scratch: ";

std::string type_of(const RecipeKey& key) {
  constexpr const char* kTypes[] = {"TEXT", "LENGTH", "INT",    "NUMBER",
                                    "BOOL", "TEXT",   "LENGTH", "NUMBER"};
  return kTypes[key.target.index()];
}

}  // namespace

CLI::Option* RecipeFlags::add(CLI::App& app, const std::string& flags, const RecipeKey& key,
                              const std::string& help) {
  CLI::Option* option = app.add_option(flags, words_[key.name], help);
  option->type_name(type_of(key));
  if (key.is_list()) {
    option->expected(1, CLI::detail::expected_max_vector_size);
  } else {
    option->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  }
  return option;
}

void RecipeFlags::add_to(CLI::App& app, const std::map<std::string, std::string>& defaults,
                         bool from_scratch) {
  app.add_option("--config", config_, "Recipe, a TOML file; flags go over it")
      ->check(CLI::ExistingFile)
      ->type_name("FILE");
  Recipe recipe;
  for (const RecipeKey& key : recipe_keys(recipe)) {
    const std::string flags = key.name == "output" ? "-o,--output" : "--" + key.name;
    const auto other = defaults.find(key.name);
    const std::string value = other == defaults.end() ? key.value() : other->second;
    const bool empty = value == "\"\"" || value == "[]";
    const bool shown = from_scratch || !key.help.starts_with(kFromScratch);
    add(app, flags, key, empty ? key.help : fmt::format("{} [{}]", key.help, value))
        ->group(shown ? group_of(key.name) : "");
  }
}

CLI::Option* RecipeFlags::add_alias(CLI::App& app, const std::string& flags,
                                    const std::string& name, const std::string& help) {
  Recipe unused;
  for (const RecipeKey& key : recipe_keys(unused)) {
    if (key.name == name) return add(app, flags, key, help);
  }
  fail("no recipe key {}", name);
}

std::set<std::string> RecipeFlags::apply(Recipe& recipe) const {
  std::set<std::string> given;
  if (!config_.empty()) {
    for (const std::string& name : read_recipe_file(recipe, config_)) given.insert(name);
  }
  for (const RecipeKey& key : recipe_keys(recipe)) {
    const auto words = words_.find(key.name);
    if (words == words_.end() || words->second.empty()) continue;
    key.set(words->second);
    given.insert(key.name);
  }
  return given;
}

}  // namespace longgen::train
