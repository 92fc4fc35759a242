// What a run does, in full: read from TOML and flags, written beside the output.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "longgen/model/decoder.h"

namespace longgen::train {

struct ModelRecipe {
  std::string path;                 // onwards from this model; empty: from scratch
  std::string tokenizer = "bytes";  // from scratch: "bytes", or a model whose tokenizer to take
  int64_t hidden_size = 256, intermediate_size = 0;
  int64_t num_layers = 4, num_heads = 4, num_kv_heads = 0, head_dim = 0;
  double norm_eps = 1e-5;
  bool tie_word_embeddings = true;
  double rope_theta = 0;
  std::string hybrid;
  int64_t block_size = 64;
  int64_t max_position_embeddings = 0;
  double init_std = 0.02;
};

struct DataRecipe {
  std::vector<std::string> paths;
  std::vector<double> weights;
  std::vector<int64_t> max_document_tokens;
  std::vector<std::string> eval;
  double eval_fraction = 0;
  std::string text_field = "text";
  std::string packing = "concat";
  bool shuffle = true;
  std::string cache;
};

// train.batch_tokens: a 64th of all tokens of the run, at most 512K, at least one sequence.
constexpr int64_t kAutomaticBatch = -1;

struct TrainRecipe {
  int64_t length = 1024;
  int64_t batch_tokens = 0;  // 0: one sequence; kAutomaticBatch
  int64_t steps = 0, tokens = 0;
  double epochs = 0;
  double lr = 1e-3;
  std::string schedule = "cosine";
  double min_lr = 0.1;
  double warmup = 0.02;
  int64_t warmup_steps = -1;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1, clip = 1;
  std::string dtype = "bf16";
  uint64_t seed = 0;
  std::string optimizer_state = "f32";
  bool recompute = true, recompute_attention = true;
  std::string keep_outputs = "full", offload = "none";
  int64_t memory = 0;  // for keeping more than they say; 0: what suits the device; -1: none
  int64_t mlp_chunk = 0, loss_chunk = 0;  // 0: what suits the device
  int64_t eval_every = 0, eval_tokens = int64_t{1} << 18;
  int64_t checkpoint_every = 0;
  double checkpoint_minutes = 10;
  int64_t keep_checkpoints = 2;
};

// "none", "full", "full+3", "all"; "none", "outputs", "activations". Throw UsageError naming the
// key.
void parse_kept_outputs(const std::string& text, model::TrainOptions& options);
model::Offload parse_offload(const std::string& text);

struct Recipe {
  std::string output;
  ModelRecipe model;
  DataRecipe data;
  TrainRecipe train;
};

// One line of a recipe, bound to a Recipe. Its name is also a flag: train.lr is --train.lr.
struct RecipeKey {
  using Target =
      std::variant<std::string*, int64_t*, uint64_t*, double*, bool*, std::vector<std::string>*,
                   std::vector<int64_t>*, std::vector<double>*>;

  std::string name, help;
  Target target;
  // False: a run may be resumed under another value (the text itself is told by its hash).
  bool changes_result = true;

  bool is_list() const { return target.index() >= 5; }
  // From a flag's words. Integers also read as lengths (16K). Throws UsageError naming the key.
  void set(const std::vector<std::string>& words) const;
  // As TOML writes it.
  std::string value() const;
};

// Every key, in the order in which a recipe is written. The pointers are into `recipe`.
std::vector<RecipeKey> recipe_keys(Recipe& recipe);

// Reads TOML over `recipe`. Throws UsageError naming `file_name` and the line: bad syntax, a value
// of the wrong type, an unknown key (with the nearest known one). Returns the names of the keys
// read.
std::vector<std::string> read_recipe(Recipe& recipe, std::string_view toml,
                                     const std::string& file_name);
std::vector<std::string> read_recipe_file(Recipe& recipe, const std::filesystem::path& file);

// Every key with its value, so that the run can be repeated from this text alone.
std::string write_recipe(const Recipe& recipe);

// Throws UsageError naming the key when a value is out of range or two keys disagree.
void validate_recipe(const Recipe& recipe);

// The keys whose values differ and that change results: "train.lr: 0.001, was 0.002".
std::vector<std::string> differing_keys(const Recipe& now, const Recipe& before);

}  // namespace longgen::train
