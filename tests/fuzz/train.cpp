#include <spdlog/spdlog.h>

#include "longgen/base/error.h"
#include "longgen/data/hash.h"
#include "longgen/train/recipe.h"
#include "longgen/train/run_state.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/target.h"

namespace longgen::fuzz {
namespace {

using namespace train;

model::ModelConfig small_config() {
  model::ModelConfig config;
  config.vocab_size = 4;
  config.hidden_size = 16;
  config.intermediate_size = 16;
  config.num_layers = 1;
  config.num_heads = config.num_kv_heads = 1;
  config.head_dim = config.rotary_dim = 16;
  config.max_position_embeddings = 16;
  config.tie_word_embeddings = true;
  model::set_full_attention(config, 16);
  return config;
}

// Lines as CheckpointStore writes them, so that what lies behind the checksums is reached.
std::string checksums_of(const std::vector<std::pair<std::string, std::string>>& files) {
  std::string lines;
  for (const auto& [name, text] : files) {
    lines += fmt::format("{} {} {}\n", data::hash_text(text).hex(), text.size(), name);
  }
  return lines + data::hash_text(lines).hex() + "\n";
}

}  // namespace

void run_recipe(std::string_view bytes) {
  constexpr const char* kFile = "recipe.toml";
  Recipe recipe;
  bool read = false;
  expect_clear_error(kFile, [&] {
    (void)read_recipe(recipe, bytes, kFile);
    read = true;
  });
  if (!read) return;
  expect_clear_error("", [&] { validate_recipe(recipe); });
  Recipe again;
  (void)read_recipe(again, write_recipe(recipe), "written");
  check(differing_keys(again, recipe).empty(), "a written recipe reads the same");
}

// state.json, recipe.toml, master and checksums of a checkpoint; what is empty is made right.
void run_checkpoint(std::string_view bytes) {
  static const MemoryFolder folder;
  static const auto backend = make_cpu_backend(1);
  static Optimizer optimizer(small_config(), DType::kF32, *backend, OptimizerOptions{},
                             backend->memory());
  static const std::string right = [] {
    spdlog::set_level(spdlog::level::off);  // damaged checkpoints are named in warnings
    std::string text;
    for (const Tensor& tensor : optimizer.master().tensors()) {
      text.append(static_cast<const char*>(tensor.raw()), static_cast<size_t>(tensor.bytes()));
    }
    return text;
  }();

  const std::string state(next_part(bytes)), recipe(next_part(bytes));
  const std::string master(next_part(bytes)), checksums(bytes);
  const std::vector<std::pair<std::string, std::string>> files = {
      {"master", master.empty() ? right : master},
      {"moment1", right},
      {"moment2", right},
      {"state.json", state},
      {"recipe.toml", recipe}};
  const auto write = [&](const std::string& name, std::string_view text) {
    folder.write("state/step-3/" + name, text);
  };
  for (const auto& [name, text] : files) write(name, text);
  write("checksums", checksums.empty() ? checksums_of(files) : checksums);

  const CheckpointStore store(folder.path() / "state", 1);
  const auto check_state = [](const std::optional<RunState>& found) {
    if (!found) return;
    check(found->step >= 0 && found->tokens >= 0 && found->position.epoch >= 0 &&
              found->position.sequence >= 0,
          "counters are not negative");
  };
  expect_clear_error(folder.path().string(), [&] { check_state(store.peek_newest()); });
  expect_clear_error(folder.path().string(), [&] { check_state(store.load_newest(optimizer)); });
}

}  // namespace longgen::fuzz
