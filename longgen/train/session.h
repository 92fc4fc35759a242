// A recipe carried out: model and data found, memory checked, a former run of the same recipe
// resumed, training run, and the model written to the output folder as a Hugging Face directory.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "longgen/backend/backend.h"
#include "longgen/formats/model_file.h"
#include "longgen/model/config.h"
#include "longgen/tokenizer/tokenizer.h"
#include "longgen/train/memory_plan.h"
#include "longgen/train/recipe.h"
#include "longgen/train/run_loop.h"

namespace longgen::train {

struct SessionOptions {
  bool quiet = false;
  // May be empty. Asked between documents while text is tokenised, then between sequences.
  std::function<bool()> stop_requested;
  std::function<void(const StepRecord&)> after_step;  // may be empty: for tests
};

struct RunSummary {
  bool complete = false;        // false: stopped; the same recipe goes on from there
  int64_t step = 0, steps = 0;  // done, and to do in all (0: stopped before that was known)
  int64_t tokens = 0;           // trained on, in all
};

// Throws UsageError when the recipe or the model it asks for is wrong, or is not the one that the
// output folder already holds; Error when memory, disk, model or data do not allow it.
RunSummary run_recipe(const Recipe& recipe, Backend& backend, const SessionOptions& options);

// The model that a recipe trains, before its weights.
struct StartingModel {
  std::unique_ptr<formats::ModelFile> file;  // null from scratch
  model::ModelConfig config;
  formats::ModelExtras extras;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer;
};
StartingModel open_starting_model(const Recipe& recipe);

// What a step of the recipe would take, whether there is as much or not. Reads no weights and no
// text.
MemoryPlan plan_recipe(const Recipe& recipe, Backend& backend);

}  // namespace longgen::train
