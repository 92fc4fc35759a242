#include "longgen/train/recipe.h"

namespace {

// toml++ 3.3 asserts what hostile text can break ('[', a line's end, ']'). Here that is an error,
// and in every build: with NDEBUG set it would be undefined behaviour.
struct TomlAssertion {};
constexpr void toml_assert(bool holds) {
  if (!holds) throw TomlAssertion();
}

}  // namespace

#undef NDEBUG
#define TOML_ASSERT(condition) toml_assert(static_cast<bool>(condition))
#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <numeric>

#include "longgen/base/error.h"
#include "longgen/base/mapped_file.h"
#include "longgen/data/packer.h"
#include "longgen/train/schedule.h"

namespace longgen::train {
namespace {

constexpr int64_t kMaxLayers = 4096;  // as ModelConfig::validate() has it

std::string place(const std::string& file, const toml::source_region& source) {
  return fmt::format("{}:{}", file, source.begin.line);
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, change});
    }
  }
  return row.back();
}

// What to do about an unknown key: the known one or the section that it must be a slip of, or where
// all keys are listed.
std::string advice(const std::vector<RecipeKey>& keys, const std::string& name) {
  size_t least = name.size() < 5 ? 1 : name.size() < 12 ? 2 : 3;
  std::string best;
  const auto consider = [&](const std::string& known) {
    if (name.size() > known.size() + least) return;  // also spares comparing endless names
    const size_t distance = edit_distance(known, name);
    if (distance > least || (distance == least && !best.empty())) return;
    least = distance;
    best = known;
  };
  for (const RecipeKey& key : keys) {
    consider(key.name);
    consider(key.name.substr(0, key.name.find('.')));
  }
  if (!best.empty()) return fmt::format("did you mean {}?", best);
  return "longgen train --help lists the keys, each as a flag";
}

// Known keys begin with `name` and a dot.
bool is_section(const std::vector<RecipeKey>& keys, const std::string& name) {
  return std::any_of(keys.begin(), keys.end(),
                     [&](const RecipeKey& key) { return key.name.starts_with(name + "."); });
}

// A key as an error quotes it: whatever a hostile file put there, short and on one line.
std::string quoted_key(const std::string& name) {
  std::string text = name.substr(0, 80);
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return text.size() < name.size() ? text + "..." : text;
}

// A scalar as the word that a flag would hold.
std::string word_of(const toml::node& node, const std::string& key, const std::string& where) {
  if (const auto text = node.value_exact<std::string>()) return *text;
  if (const auto integer = node.value_exact<int64_t>()) return fmt::format("{}", *integer);
  if (const auto number = node.value_exact<double>()) return fmt::format("{}", *number);
  if (const auto flag = node.value_exact<bool>()) return *flag ? "true" : "false";
  fail_usage("{}: {}: a recipe holds numbers, strings, booleans and lists of them", where, key);
}

void check_kind(const RecipeKey& key, const toml::node& node, const std::string& where) {
  const bool wants_text = std::holds_alternative<std::string*>(key.target) ||
                          std::holds_alternative<std::vector<std::string>*>(key.target);
  const bool wants_bool = std::holds_alternative<bool*>(key.target);
  if (wants_text != node.is_string() && (wants_text || node.is_boolean())) {
    fail_usage("{}: {}: expected {}", where, key.name, wants_text ? "a string" : "a number");
  }
  if (wants_bool != node.is_boolean()) {
    fail_usage("{}: {}: expected {}", where, key.name, wants_bool ? "true or false" : "a number");
  }
}

void set_from_node(const RecipeKey& key, const toml::node& node, const std::string& file) {
  const std::string where = place(file, node.source());
  std::vector<std::string> words;
  if (const toml::array* list = node.as_array()) {
    if (!key.is_list()) fail_usage("{}: {}: expected one value, got a list", where, key.name);
    for (const toml::node& item : *list) {
      check_kind(key, item, where);
      words.push_back(word_of(item, key.name, where));
    }
  } else {
    check_kind(key, node, where);
    words.push_back(word_of(node, key.name, where));
  }
  try {
    key.set(words);
  } catch (const UsageError& e) {
    fail_usage("{}: {}", where, e.what());
  }
}

void read_table(const std::vector<RecipeKey>& keys, const toml::table& table,
                const std::string& prefix, const std::string& file,
                std::vector<std::string>& names) {
  for (const auto& [toml_key, node] : table) {
    const std::string name = prefix + std::string(toml_key.str());
    const auto key =
        std::find_if(keys.begin(), keys.end(), [&](const RecipeKey& k) { return k.name == name; });
    if (key != keys.end()) {
      set_from_node(*key, node, file);
      names.push_back(name);
      continue;
    }
    if (!is_section(keys, name)) {
      fail_usage("{}: unknown key {}; {}", place(file, node.source()), quoted_key(name),
                 advice(keys, name));
    }
    if (!node.is_table()) {
      fail_usage("{}: {} is a section; write its keys below [{}]", place(file, node.source()), name,
                 name);
    }
    read_table(keys, *node.as_table(), name + ".", file, names);
  }
}

[[noreturn]] void refuse_character(std::string_view text, size_t at, const std::string& file,
                                   std::string_view advice) {
  fail_usage("{}:{}: a character beyond ASCII {}", file,
             1 + std::count(text.begin(), text.begin() + static_cast<int64_t>(at), '\n'), advice);
}

// Behind the string that begins at `at`.
size_t end_of_string(std::string_view text, size_t at, const std::string& file) {
  const char quote = text[at];
  const std::string three(3, quote);
  const bool multiline = text.substr(at, 3) == three;
  for (at += multiline ? 3 : 1; at < text.size(); ++at) {
    if (text[at] == '\\' && quote == '"') {
      // toml++ looks for white space there, and meets others with undefined behaviour too.
      const size_t next = text.find_first_not_of(" \t\v\f\r\n", at + 1);
      if (multiline && next != text.npos && static_cast<unsigned char>(text[next]) >= 0x80)
        refuse_character(text, next, file, "right behind a \\; put it before, on the same line");
      ++at;
    } else if (multiline && text.substr(at, 3) == three) {
      at += 3;
      while (at < text.size() && text[at] == quote) ++at;  // up to two belong to the string
      return at;
    } else if (!multiline && (text[at] == quote || text[at] == '\n')) {
      return at + 1;
    }
  }
  return text.size();
}

// TOML has characters beyond ASCII in strings and comments alone. toml++ 3.3 meets others with
// undefined behaviour (is_non_ascii_horizontal_whitespace), so they do not come that far.
void refuse_stray_characters(std::string_view text, const std::string& file) {
  size_t at = text.starts_with("\xEF\xBB\xBF") ? 3 : 0;
  char before = '\n';  // the last character that is no blank
  while (at < text.size()) {
    const char c = text[at];
    const char last = before;
    if (c != ' ' && c != '\t') before = c;
    if (c == '#') {
      at = std::min(text.find('\n', at), text.size());
    } else if ((c == '"' || c == '\'') && std::string_view("\n=,[{.").find(last) != text.npos) {
      at = end_of_string(text, at, file);  // elsewhere a quote begins nothing
    } else if (static_cast<unsigned char>(c) < 0x80) {
      ++at;
    } else {
      refuse_character(text, at, file, "outside of quotes; quote the text it belongs to");
    }
  }
}

void check(bool good, std::string_view key, const auto& value, std::string_view allowed) {
  if (!good) fail_usage("{}: {} is not {}", key, value, allowed);
}

}  // namespace

std::vector<std::string> read_recipe(Recipe& recipe, std::string_view text,
                                     const std::string& file_name) {
  refuse_stray_characters(text, file_name);
  toml::table table;
  try {
    table = toml::parse(text);
  } catch (const toml::parse_error& e) {
    fail_usage("{}: {}", place(file_name, e.source()), e.description());
  } catch (const TomlAssertion&) {
    fail_usage("{}: is not valid TOML; check its [section] headers", file_name);
  }
  std::vector<std::string> names;
  read_table(recipe_keys(recipe), table, "", file_name, names);
  return names;
}

std::vector<std::string> read_recipe_file(Recipe& recipe, const std::filesystem::path& file) {
  return read_recipe(recipe, read_text_file(file, size_t{1} << 20), file.string());
}

std::string write_recipe(const Recipe& recipe) {
  Recipe copy = recipe;
  std::string text, section;
  for (const RecipeKey& key : recipe_keys(copy)) {
    const size_t dot = key.name.find('.');
    const std::string part = dot == std::string::npos ? "" : key.name.substr(0, dot);
    if (part != section) text += fmt::format("\n[{}]\n", section = part);
    text += fmt::format("{} = {}\n", dot == std::string::npos ? key.name : key.name.substr(dot + 1),
                        key.value());
  }
  return text;
}

namespace {

// 0 leaves the choice to the program. How numbers fit together is ModelConfig::validate()'s.
void validate_model(const ModelRecipe& m) {
  const auto optional = [](std::string_view key, int64_t value) {
    check(value >= 0, key, value, "0 or more");
  };
  optional("model.intermediate_size", m.intermediate_size);
  optional("model.num_kv_heads", m.num_kv_heads);
  optional("model.head_dim", m.head_dim);
  optional("model.max_position_embeddings", m.max_position_embeddings);
  check(m.num_layers <= kMaxLayers, "model.num_layers", m.num_layers,
        fmt::format("1 to {}", kMaxLayers));
  check(m.rope_theta >= 0, "model.rope_theta", m.rope_theta, "0 or more");
  check(m.init_std >= 0 && m.init_std <= 1, "model.init_std", m.init_std, "in 0 to 1");
}

void check_memory_policy(const TrainRecipe& t) {
  check(t.optimizer_state == "f32" || t.optimizer_state == "bf16", "train.optimizer_state",
        t.optimizer_state, "f32 or bf16");
  check(t.optimizer_state == "f32" || t.dtype == "bf16", "train.optimizer_state", t.optimizer_state,
        "f32 where train.dtype is f32");
  model::TrainOptions unused;
  parse_kept_outputs(t.keep_outputs, unused);
  check(t.memory >= -1, "train.memory", t.memory, "-1, 0 or bytes");
  const bool recomputes = t.recompute && t.recompute_attention;
  check(parse_offload(t.offload) == model::Offload::kNone || recomputes, "train.offload", t.offload,
        "none without train.recompute and train.recompute_attention");
}

}  // namespace

void validate_recipe(const Recipe& r) {
  const TrainRecipe& t = r.train;
  validate_model(r.model);
  if (r.output.empty()) fail_usage("output: name the folder to write to (-o DIR)");
  if (r.data.paths.empty()) fail_usage("data.paths: name the text to train on");
  const size_t weights = r.data.weights.size();
  check(weights == 0 || weights == r.data.paths.size(), "data.weights",
        fmt::format("{} values", weights),
        fmt::format("one for each of {} paths", r.data.paths.size()));
  const size_t limits = r.data.max_document_tokens.size();
  check(limits <= 1 || limits == r.data.paths.size(), "data.max_document_tokens",
        fmt::format("{} values", limits), "one value, or one a path");
  check(r.data.eval.empty() || r.data.eval_fraction == 0, "data.eval_fraction",
        r.data.eval_fraction, "0, although data.eval names held-out text");
  data::parse_packing(r.data.packing);
  parse_schedule(t.schedule);
  check(t.length >= 2 && t.length <= (int64_t{1} << 31), "train.length", t.length, "2 to 2G");
  check(t.batch_tokens >= kAutomaticBatch && t.batch_tokens <= (int64_t{1} << 31),
        "train.batch_tokens", t.batch_tokens, "-1 to 2G");
  check(t.steps >= 0, "train.steps", t.steps, "0 or more");
  check(t.tokens >= 0, "train.tokens", t.tokens, "0 or more");
  check(t.epochs >= 0, "train.epochs", t.epochs, "0 or more");
  check((t.steps > 0) + (t.tokens > 0) + (t.epochs > 0) <= 1, "train.steps",
        "given with train.tokens or train.epochs; that", "allowed: choose one of the three");
  check(t.lr > 0 && t.lr < 1, "train.lr", t.lr, "between 0 and 1");
  check(t.min_lr >= 0 && t.min_lr <= 1, "train.min_lr", t.min_lr, "in 0 to 1");
  check(t.warmup >= 0 && t.warmup <= 1, "train.warmup", t.warmup, "in 0 to 1");
  check(t.warmup_steps >= -1, "train.warmup_steps", t.warmup_steps, "-1 or more");
  check(t.beta1 >= 0 && t.beta1 < 1, "train.beta1", t.beta1, "in [0, 1)");
  check(t.beta2 >= 0 && t.beta2 < 1, "train.beta2", t.beta2, "in [0, 1)");
  check(t.eps > 0, "train.eps", t.eps, "above 0");
  check(t.weight_decay >= 0, "train.weight_decay", t.weight_decay, "0 or more");
  check(t.clip >= 0, "train.clip", t.clip, "0 or more");
  check(t.dtype == "bf16" || t.dtype == "f32", "train.dtype", t.dtype, "bf16 or f32");
  check(t.mlp_chunk >= 0, "train.mlp_chunk", t.mlp_chunk, "0 or more");
  check(t.loss_chunk >= 0, "train.loss_chunk", t.loss_chunk, "0 or more");
  check_memory_policy(t);
  check(t.eval_every >= 0, "train.eval_every", t.eval_every, "0 or more");
  check(t.eval_tokens > 0, "train.eval_tokens", t.eval_tokens, "1 or more");
  check(t.checkpoint_every >= 0, "train.checkpoint_every", t.checkpoint_every, "0 or more");
  check(t.checkpoint_minutes >= 0, "train.checkpoint_minutes", t.checkpoint_minutes, "0 or more");
  check(t.keep_checkpoints >= 1, "train.keep_checkpoints", t.keep_checkpoints, "1 or more");
}

void parse_kept_outputs(const std::string& text, model::TrainOptions& options) {
  using model::KeptOutputs;
  constexpr std::string_view kMore = "full+";
  options.keep_sparse = 0;
  if (text == "none") {
    options.keep_outputs = KeptOutputs::kNone;
  } else if (text == "all") {
    options.keep_outputs = KeptOutputs::kAllLayers;
  } else {
    options.keep_outputs = KeptOutputs::kFullLayers;
    if (text == "full") return;
    const char *digits = text.data() + std::min(kMore.size(), text.size()),
               *end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(digits, end, options.keep_sparse);
    if (!text.starts_with(kMore) || error != std::errc() || stop != end ||
        options.keep_sparse < 0) {
      fail_usage("train.keep_outputs: '{}' is none of none, full, full+N, all", text);
    }
  }
}

model::Offload parse_offload(const std::string& text) {
  if (text == "none") return model::Offload::kNone;
  if (text == "outputs") return model::Offload::kOutputs;
  if (text == "activations") return model::Offload::kInputsAndOutputs;
  fail_usage("train.offload: '{}' is none of none, outputs, activations", text);
}

std::vector<std::string> differing_keys(const Recipe& now, const Recipe& before) {
  Recipe a = now, b = before;
  const auto keys_a = recipe_keys(a), keys_b = recipe_keys(b);
  std::vector<std::string> found;
  for (size_t i = 0; i < keys_a.size(); ++i) {
    if (keys_a[i].changes_result && keys_a[i].value() != keys_b[i].value()) {
      found.push_back(
          fmt::format("{}: {}, was {}", keys_a[i].name, keys_a[i].value(), keys_b[i].value()));
    }
  }
  return found;
}

}  // namespace longgen::train
