#include "longgen/base/log.h"
#include "longgen/cli/command.h"
#include "longgen/cli/training.h"

namespace longgen::cli {
namespace {

class TrainCommand : public Command {
 public:
  std::string name() const override { return "train"; }
  std::string description() const override {
    return "Train a model from scratch or onwards, by a recipe; resumes by itself";
  }
  std::string example() const override {
    return "longgen train --config recipes/demo-pretrain.toml -o run --train.lr 1e-3";
  }

  void add_options(CLI::App& app, const CommonOptions& common) override {
    app_ = &app;
    common_ = &common;
    flags_.add_to(app);
    add_plan_option(app, plan_only_);
  }

  int run() override {
    train::Recipe recipe;
    const auto given = flags_.apply(recipe);
    apply_common_options(*app_, *common_, given, recipe);
    return plan_only_ ? print_memory_plan(recipe, *common_)
                      : run_training_command(recipe, *common_);
  }

 private:
  CLI::App* app_ = nullptr;
  const CommonOptions* common_ = nullptr;
  train::RecipeFlags flags_;
  bool plan_only_ = false;
};

}  // namespace

std::unique_ptr<Command> make_train_command() { return std::make_unique<TrainCommand>(); }

}  // namespace longgen::cli
