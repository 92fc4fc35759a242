#include <algorithm>
#include <cmath>

#include "longgen/base/error.h"
#include "longgen/base/log.h"
#include "longgen/base/units.h"
#include "longgen/cli/command.h"
#include "longgen/cli/training.h"
#include "longgen/formats/model_file.h"

namespace longgen::cli {
namespace {

// 2e-5 suits 7B parameters; smaller models take larger steps. The square root of the size gives
// 1.4e-4 for 135M. Nothing above 2e-3, where tiny models begin to lose what they know.
double extension_lr(int64_t parameters) {
  return std::min(2e-3, 2e-5 * std::sqrt(7e9 / static_cast<double>(parameters)));
}

class ExtendCommand : public Command {
 public:
  std::string name() const override { return "extend"; }
  std::string description() const override {
    return "Extend a model to a longer context, with sparse layers if asked: train with the "
           "defaults of length extension";
  }
  std::string example() const override {
    return "longgen extend model/ --data books/ -o longer --length 16K --tokens 512K \\\n"
           "      --hybrid \"full=middle:1/3 sparse=sink-window\"";
  }

  void add_options(CLI::App& app, const CommonOptions& common) override {
    app_ = &app;
    common_ = &common;
    flags_.add_to(app,
                  {{"model.rope_theta", "extended"},
                   {"train.length", "must be given"},
                   {"train.lr", "by the model's size"},
                   {"train.batch_tokens", std::to_string(train::kAutomaticBatch)}},
                  /*from_scratch=*/false);
    add_plan_option(app, plan_only_);
    flags_.add_alias(app, "MODEL", "model.path", "HF directory or GGUF file");
    flags_.add_alias(app, "--data", "data.paths", "Files or folders of .txt, .md, .jsonl");
    flags_.add_alias(app, "--length", "train.length", "The new context length");
    flags_.add_alias(app, "--hybrid", "model.hybrid",
                     "Which layers stay full and what the others see; without it all stay as "
                     "they are");
    flags_.add_alias(app, "--tokens", "train.tokens", "Tokens in all; without it one epoch");
    flags_.add_alias(app, "--rope-theta", "model.rope_theta",
                     "RoPE base; without it the model's x (new / old length)^1.8");
  }

  int run() override {
    train::Recipe recipe;
    const auto given = flags_.apply(recipe);
    if (recipe.model.path.empty()) fail_usage("name the MODEL to extend");
    if (!given.contains("train.length")) fail_usage("name the new context length: --length 16K");
    apply_common_options(*app_, *common_, given, recipe);
    fill_defaults(recipe, given);
    return plan_only_ ? print_memory_plan(recipe, *common_)
                      : run_training_command(recipe, *common_);
  }

 private:
  static void fill_defaults(train::Recipe& recipe, const std::set<std::string>& given) {
    const auto file = formats::ModelFile::open(recipe.model.path);
    const model::ModelConfig& config = file.config();
    const int64_t old_length = config.max_position_embeddings, length = recipe.train.length;
    if (!given.contains("model.rope_theta") && length > old_length &&
        config.position == model::PositionKind::kRope) {
      recipe.model.rope_theta = model::extended_rope_theta(config.rope.theta, old_length, length);
      info("RoPE base {:.6g} -> {:.6g} for {} -> {} tokens", config.rope.theta,
           recipe.model.rope_theta, format_length(old_length), format_length(length));
    }
    if (length <= old_length) {
      warn("the model was made for {} tokens already; training at {} extends nothing",
           format_length(old_length), format_length(length));
    }
    if (!given.contains("train.lr")) recipe.train.lr = extension_lr(model::parameter_count(config));
    if (!given.contains("train.batch_tokens")) recipe.train.batch_tokens = train::kAutomaticBatch;
  }

  CLI::App* app_ = nullptr;
  const CommonOptions* common_ = nullptr;
  train::RecipeFlags flags_;
  bool plan_only_ = false;
};

}  // namespace

std::unique_ptr<Command> make_extend_command() { return std::make_unique<ExtendCommand>(); }

}  // namespace longgen::cli
