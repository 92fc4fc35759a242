#include "longgen/cli/training.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "longgen/base/error.h"
#include "longgen/base/interrupt.h"
#include "longgen/base/log.h"
#include "longgen/base/units.h"
#include "longgen/train/session.h"

namespace longgen::cli {

void apply_common_options(const CLI::App& app, const CommonOptions& common,
                          const std::set<std::string>& given, train::Recipe& recipe) {
  if (!common.dtype.empty()) {
    if (given.contains("train.dtype") && recipe.train.dtype != common.dtype) {
      fail_usage("--dtype {} contradicts train.dtype {}", common.dtype, recipe.train.dtype);
    }
    recipe.train.dtype = common.dtype;
  }
  if (app.count("--seed") > 0) {
    if (given.contains("train.seed") && recipe.train.seed != common.seed) {
      fail_usage("--seed {} contradicts train.seed {}", common.seed, recipe.train.seed);
    }
    recipe.train.seed = common.seed;
  }
}

void add_plan_option(CLI::App& app, bool& plan_only) {
  app.add_flag("--plan", plan_only, "Print what memory a step takes, by name, and stop");
}

int print_memory_plan(const train::Recipe& recipe, const CommonOptions& common) {
  const auto backend = make_backend(common);
  const train::MemoryPlan plan = train::plan_recipe(recipe, *backend);
  const train::AvailableMemory available = train::available_memory(*backend);
  if (!common.json) {
    fmt::print("{}  {:<40} {:>10}\n", plan.table(), "available", format_bytes(available.device));
    return 0;
  }
  nlohmann::json value = {{"bytes", plan.device_bytes()},
                          {"offloaded_bytes", plan.offloaded_bytes()},
                          {"available_bytes", available.device}};
  for (const model::MemoryItem& item : plan.items) {
    value["items"].push_back(
        {{"name", item.name}, {"bytes", item.bytes}, {"offloaded", item.offloaded}});
  }
  fmt::print("{}\n", value.dump());
  return 0;
}

int run_training_command(const train::Recipe& recipe, const CommonOptions& common) {
  const auto backend = make_backend(common);
  const InterruptGuard interrupt(
      "\nstopping when this step is done; once more ends at once, without a checkpoint\n");
  const train::SessionOptions options{.quiet = common.verbosity < 0,
                                      .stop_requested = [&] { return interrupt.requested(); }};
  const auto summary = train::run_recipe(recipe, *backend, options);
  if (common.json) {
    const nlohmann::json value = {{"output", recipe.output},
                                  {"complete", summary.complete},
                                  {"step", summary.step},
                                  {"steps", summary.steps},
                                  {"tokens", summary.tokens}};
    fmt::print("{}\n", value.dump());
  }
  if (!summary.complete) {
    if (summary.step == 0) {
      warn("stopped before the first step was done. Run the same command again to go on.");
    } else {
      warn(
          "stopped after step {}; a checkpoint is in {}/state. Run the same command again to go "
          "on.",
          summary.step, recipe.output);
    }
    return kExitInterrupted;
  }
  info("the trained model is in {}", recipe.output);
  return 0;
}

}  // namespace longgen::cli
