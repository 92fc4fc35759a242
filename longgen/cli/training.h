// What train and extend share.
#pragma once

#include <set>
#include <string>

#include "longgen/cli/common.h"
#include "longgen/train/recipe.h"
#include "longgen/train/recipe_flags.h"

namespace longgen::cli {

// --dtype and --seed over the recipe. A key that `given` holds
// and the flag contradicts is a UsageError.
void apply_common_options(const CLI::App& app, const CommonOptions& common,
                          const std::set<std::string>& given, train::Recipe& recipe);

// Adds --plan.
void add_plan_option(CLI::App& app, bool& plan_only);
// What memory a step of the recipe takes, by name: a table, or under --json one object.
int print_memory_plan(const train::Recipe& recipe, const CommonOptions& common);

// Runs the recipe until it is done (0) or stopped (kExitInterrupted).
int run_training_command(const train::Recipe& recipe, const CommonOptions& common);

}  // namespace longgen::cli
