#include <charconv>
#include <cmath>

#include "longgen/base/error.h"
#include "longgen/base/units.h"
#include "longgen/train/recipe.h"

namespace longgen::train {
namespace {

double parse_number(const std::string& key, const std::string& word) {
  double value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || end != word.data() + word.size() || !std::isfinite(value)) {
    fail_usage("{}: '{}' is not a number", key, word);
  }
  return value;
}

int64_t parse_integer(const std::string& key, const std::string& word) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error == std::errc() && end == word.data() + word.size()) return value;
  try {
    return parse_length(word);
  } catch (const UsageError&) {
    fail_usage("{}: '{}' is not an integer or a length such as 16K", key, word);
  }
}

uint64_t parse_unsigned(const std::string& key, const std::string& word) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || end != word.data() + word.size()) {
    fail_usage("{}: '{}' is not a whole number of 0 or more", key, word);
  }
  return value;
}

bool parse_bool(const std::string& key, const std::string& word) {
  if (word == "true" || word == "1" || word == "yes" || word == "on") return true;
  if (word == "false" || word == "0" || word == "no" || word == "off") return false;
  fail_usage("{}: '{}' is neither true nor false", key, word);
}

void assign(const std::string&, const std::string& word, std::string& out) { out = word; }
void assign(const std::string& key, const std::string& word, int64_t& out) {
  out = parse_integer(key, word);
}
void assign(const std::string& key, const std::string& word, uint64_t& out) {
  out = parse_unsigned(key, word);
}
void assign(const std::string& key, const std::string& word, double& out) {
  out = parse_number(key, word);
}
void assign(const std::string& key, const std::string& word, bool& out) {
  out = parse_bool(key, word);
}

std::string quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\u{:04x}", byte);
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string show(const std::string& value) { return quote(value); }
std::string show(int64_t value) { return fmt::format("{}", value); }
std::string show(uint64_t value) { return fmt::format("{}", value); }
std::string show(bool value) { return value ? "true" : "false"; }
std::string show(double value) {
  const std::string text = fmt::format("{}", value);  // the shortest that reads back equal
  return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}

template <typename T>
constexpr bool kIsList = false;
template <typename T>
constexpr bool kIsList<std::vector<T>> = true;

std::vector<RecipeKey> model_keys(ModelRecipe& m) {
  return {
      {"model.path", "Start from this model (HF directory or GGUF); empty: from scratch", &m.path},
      {"model.tokenizer", "From scratch: bytes, or a model whose tokenizer to take", &m.tokenizer},
      {"model.hidden_size", "From scratch: channels", &m.hidden_size},
      {"model.intermediate_size", "From scratch: MLP channels; 0: 8/3 hidden, rounded up to 32",
       &m.intermediate_size},
      {"model.num_layers", "From scratch: layers", &m.num_layers},
      {"model.num_heads", "From scratch: query heads", &m.num_heads},
      {"model.num_kv_heads", "From scratch: key/value heads; 0: as many as query heads",
       &m.num_kv_heads},
      {"model.head_dim", "From scratch: channels a head; 0: hidden_size / num_heads", &m.head_dim},
      {"model.norm_eps", "From scratch: epsilon of RMS norms", &m.norm_eps},
      {"model.tie_word_embeddings", "From scratch: the head is the embedding",
       &m.tie_word_embeddings},
      {"model.init_std", "From scratch: deviation of initial matrices", &m.init_std},
      {"model.rope_theta", "RoPE base; 0: the model's own (10000 from scratch)", &m.rope_theta},
      {"model.hybrid", "Sparse layers, e.g. full=middle:1/3 sparse=sink-window; empty: as it is",
       &m.hybrid},
      {"model.block_size", "Attention block of a model without sparse layers", &m.block_size},
      {"model.max_position_embeddings",
       "Written to the model; 0: the longest document that training sees",
       &m.max_position_embeddings},
  };
}

std::vector<RecipeKey> data_keys(DataRecipe& d) {
  return {
      {"data.paths", "Files or folders of .txt, .md, .jsonl", &d.paths, false},
      {"data.weights", "Share of tokens of each path; empty: every document once an epoch",
       &d.weights},
      {"data.max_document_tokens",
       "Cut documents into pieces of at most so many tokens, one number or one a path; 0: whole",
       &d.max_document_tokens},
      {"data.eval", "Files or folders of held-out text", &d.eval, false},
      {"data.eval_fraction", "Hold out this share of the documents (without data.eval)",
       &d.eval_fraction},
      {"data.text_field", "Member of a JSONL line that holds the text", &d.text_field},
      {"data.packing", "concat (joined by BOS, attention crosses) or isolated", &d.packing},
      {"data.shuffle", "New document order every epoch", &d.shuffle},
      {"data.cache", "Folder of tokenised text; empty: OUTPUT/cache", &d.cache, false},
  };
}

std::vector<RecipeKey> train_keys(TrainRecipe& t) {
  return {
      {"train.length", "Tokens of a sequence", &t.length},
      {"train.batch_tokens",
       "Tokens of an optimizer step; 0: one sequence; -1: a 64th of all, at most 512K",
       &t.batch_tokens},
      {"train.steps", "Optimizer steps; 0: by train.tokens or train.epochs", &t.steps},
      {"train.tokens", "Tokens in all; 0: by train.epochs", &t.tokens},
      {"train.epochs", "Passes over the data; 0: one, unless steps or tokens say otherwise",
       &t.epochs},
      {"train.lr", "Learning rate after warm-up", &t.lr},
      {"train.schedule", "cosine or constant", &t.schedule},
      {"train.min_lr", "Where the cosine ends, as a share of train.lr", &t.min_lr},
      {"train.warmup", "Warm-up as a share of all steps", &t.warmup},
      {"train.warmup_steps", "Warm-up in steps; -1: by train.warmup", &t.warmup_steps},
      {"train.beta1", "AdamW: decay of the first moment", &t.beta1},
      {"train.beta2", "AdamW: decay of the second moment", &t.beta2},
      {"train.eps", "AdamW: epsilon", &t.eps},
      {"train.weight_decay", "AdamW: decay of matrices", &t.weight_decay},
      {"train.clip", "Largest gradient norm; 0: no clipping", &t.clip},
      {"train.dtype", "bf16 or f32: activations, and the weights that products read", &t.dtype},
      {"train.optimizer_state",
       "f32 (master weights and moments), or bf16 (weights and moments without a master, rounded "
       "stochastically: 6 bytes a parameter instead of 14)",
       &t.optimizer_state},
      {"train.seed", "Seed of initial weights and data order", &t.seed},
      {"train.recompute", "Run layers again in backward instead of keeping activations",
       &t.recompute, false},
      {"train.recompute_attention",
       "With train.recompute: attention too; false keeps its activations (four times the memory of "
       "the layers' inputs) and runs the MLP alone again",
       &t.recompute_attention, false},
      {"train.keep_outputs",
       "With both recomputations: layers whose attention output and log-sum-exp are kept, so that "
       "their attention does not run twice: none, full, full+N (N sparse layers, too), all",
       &t.keep_outputs, false},
      {"train.offload",
       "What waits in host memory for backward: none, outputs (those kept), activations (layer "
       "inputs, too); needs a GPU and both recomputations",
       &t.offload, false},
      {"train.memory",
       "Bytes (4G) for activations that are kept although the recomputations above would run them "
       "again; 0: half of those free on a CPU, none on a GPU; -1: none",
       &t.memory, false},
      {"train.mlp_chunk", "Tokens a chunk of the MLP; 0: what suits the device", &t.mlp_chunk},
      {"train.loss_chunk", "Tokens a chunk of head and loss; 0: what suits the device",
       &t.loss_chunk},
      {"train.eval_every", "Steps between evaluations; 0: at the start and the end only",
       &t.eval_every, false},
      {"train.eval_tokens", "Most tokens of an evaluation", &t.eval_tokens, false},
      {"train.checkpoint_every", "Steps between checkpoints; 0: by time only", &t.checkpoint_every,
       false},
      {"train.checkpoint_minutes", "Minutes between checkpoints; 0: by steps only",
       &t.checkpoint_minutes, false},
      {"train.keep_checkpoints", "Checkpoints kept", &t.keep_checkpoints, false},
  };
}

}  // namespace

void RecipeKey::set(const std::vector<std::string>& words) const {
  std::visit(
      [&](auto* out) {
        using T = std::remove_pointer_t<decltype(out)>;
        if constexpr (kIsList<T>) {
          T values(words.size());
          for (size_t i = 0; i < words.size(); ++i) assign(name, words[i], values[i]);
          *out = values;
        } else {
          if (words.size() != 1) fail_usage("{}: expected one value, got {}", name, words.size());
          assign(name, words[0], *out);
        }
      },
      target);
}

std::string RecipeKey::value() const {
  return std::visit(
      [](auto* in) -> std::string {
        using T = std::remove_pointer_t<decltype(in)>;
        if constexpr (kIsList<T>) {
          std::string text;
          for (const auto& item : *in) text += (text.empty() ? "" : ", ") + show(item);
          return "[" + text + "]";
        } else {
          return show(*in);
        }
      },
      target);
}

std::vector<RecipeKey> recipe_keys(Recipe& recipe) {
  std::vector<RecipeKey> keys = {
      {"output", "Folder of the trained model, metrics and checkpoints", &recipe.output, false}};
  for (auto& part : {model_keys(recipe.model), data_keys(recipe.data), train_keys(recipe.train)}) {
    keys.insert(keys.end(), part.begin(), part.end());
  }
  return keys;
}

}  // namespace longgen::train
