#include "formats_testing.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "longgen/base/checked.h"
#include "longgen/base/rng.h"

namespace longgen::testing {

namespace fs = std::filesystem;

TempFolder::TempFolder() {
  static std::atomic<int> count = 0;
  // Thousands of damaged files are written: in memory where there is a file system for it.
  const bool memory = access("/dev/shm", W_OK) == 0;
  path_ = (memory ? fs::path("/dev/shm") : fs::temp_directory_path()) /
          fmt::format("longgen-formats-{}-{}", getpid(), ++count);
  fs::remove_all(path_);
  fs::create_directories(path_);
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

fs::path TempFolder::write(const std::string& name, std::string_view contents) const {
  const fs::path path = path_ / name;
  std::ofstream(path, std::ios::binary)
      .write(contents.data(), static_cast<std::streamsize>(contents.size()));
  return path;
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in) << path;
  return std::string(std::istreambuf_iterator<char>(in), {});
}

fs::path data_file(const std::string& name) {
  return fs::path(LONGGEN_SOURCE_DIR) / "tests" / "formats" / "data" / name;
}

std::string safetensors_bytes(std::string_view header, std::string_view data) {
  return bytes_of<uint64_t>(header.size()) + std::string(header) + std::string(data);
}

std::string safetensors_bytes(const std::vector<F32Tensor>& tensors) {
  Json header = Json::object();
  std::string data;
  for (const F32Tensor& tensor : tensors) {
    const size_t begin = data.size();
    data += bytes_of(tensor.values);
    header[tensor.name] = {
        {"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  return safetensors_bytes(header.dump(), data);
}

namespace {

std::string gguf_string(std::string_view text) {
  return bytes_of<uint64_t>(text.size()) + std::string(text);
}

}  // namespace

void GgufBuilder::add_raw(const std::string& key, uint32_t type, std::string_view value) {
  keys_.emplace_back(key, bytes_of(type) + std::string(value));
}

void GgufBuilder::string(const std::string& key, std::string_view value) {
  add_raw(key, 8, gguf_string(value));
}

void GgufBuilder::strings(const std::string& key, const std::vector<std::string>& values) {
  std::string text = bytes_of<uint32_t>(8) + bytes_of<uint64_t>(values.size());
  for (const std::string& value : values) text += gguf_string(value);
  add_raw(key, 9, text);
}

void GgufBuilder::erase(const std::string& key) {
  std::erase_if(keys_, [&](const auto& entry) { return entry.first == key; });
}

void GgufBuilder::tensor(const std::string& name, std::vector<uint64_t> dims, uint32_t type,
                         std::string_view data, int64_t offset) {
  tensors_.push_back({name, std::move(dims), type, std::string(data), offset});
}

void GgufBuilder::erase_tensor(const std::string& name) {
  std::erase_if(tensors_, [&](const Tensor& tensor) { return tensor.name == name; });
}

std::string GgufBuilder::build() const {
  auto keys = keys_;
  if (alignment != 32) {
    keys.emplace_back("general.alignment",
                      bytes_of<uint32_t>(4) + bytes_of(static_cast<uint32_t>(alignment)));
  }
  std::string out = magic + bytes_of(version);
  out += bytes_of<uint64_t>(tensor_count < 0 ? tensors_.size() : uint64_t(tensor_count));
  out += bytes_of<uint64_t>(key_count < 0 ? keys.size() : uint64_t(key_count));
  for (const auto& [key, value] : keys) out += gguf_string(key) + value;
  std::string data;
  const size_t step = std::max<uint64_t>(alignment, 1);
  for (const Tensor& tensor : tensors_) {
    data.resize(round_up(data.size(), step));
    const uint64_t offset = tensor.offset < 0 ? data.size() : uint64_t(tensor.offset);
    out += gguf_string(tensor.name) + bytes_of(static_cast<uint32_t>(tensor.dims.size()));
    out += bytes_of(tensor.dims) + bytes_of(tensor.type) + bytes_of(offset);
    data += tensor.data;
  }
  out.resize(round_up(out.size(), step));
  return out + data;
}

model::ModelConfig tiny_config(bool tied) {
  model::ModelConfig config;
  config.vocab_size = 32;
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.num_layers = 2;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = config.rotary_dim = 16;
  config.max_position_embeddings = 128;
  config.tie_word_embeddings = tied;
  model::set_full_attention(config);
  return config;
}

Json tiny_config_json(bool tied) {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", 32},
          {"hidden_size", 32},
          {"intermediate_size", 48},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 2},
          {"num_key_value_heads", 1},
          {"max_position_embeddings", 128},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"tie_word_embeddings", tied},
          {"torch_dtype", "float32"}};
}

std::vector<F32Tensor> tiny_weights(const model::ModelConfig& config, uint64_t seed) {
  std::vector<F32Tensor> weights;
  uint64_t stream = 0;
  for (const model::ParamSpec& spec : model::param_specs(config)) {
    Rng rng(seed, stream++);
    F32Tensor tensor{spec.name, spec.shape, {}};
    for (int64_t i = 0; i < spec.numel(); ++i) {
      tensor.values.push_back(static_cast<float>(rng.normal()));
    }
    weights.push_back(std::move(tensor));
  }
  return weights;
}

namespace {

// As llama.cpp's converter: reshape(heads, 2, d / 2, columns).swapaxes(1, 2).
std::vector<float> interleave_rows(const F32Tensor& tensor, size_t head_dim) {
  const size_t columns = static_cast<size_t>(tensor.shape.size() == 2 ? tensor.shape[1] : 1);
  const size_t heads = static_cast<size_t>(tensor.shape[0]) / head_dim;
  std::vector<float> out;
  for (size_t head = 0; head < heads; ++head) {
    for (size_t pair = 0; pair < head_dim / 2; ++pair) {
      for (size_t half = 0; half < 2; ++half) {
        const size_t row = head * head_dim + half * (head_dim / 2) + pair;
        const auto begin = tensor.values.begin() + static_cast<std::ptrdiff_t>(row * columns);
        out.insert(out.end(), begin, begin + static_cast<std::ptrdiff_t>(columns));
      }
    }
  }
  return out;
}

std::string replace(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

std::string gguf_name(std::string name) {
  static const std::vector<std::pair<std::string, std::string>> pairs = {
      {"model.layers.", "blk."},        {"model.embed_tokens", "token_embd"},
      {"model.norm", "output_norm"},    {"lm_head", "output"},
      {"input_layernorm", "attn_norm"}, {"post_attention_layernorm", "ffn_norm"},
      {"self_attn.q_proj", "attn_q"},   {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},   {"self_attn.o_proj", "attn_output"},
      {"mlp.gate_proj", "ffn_gate"},    {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"}};
  for (const auto& [from, to] : pairs) name = replace(name, from, to);
  return name;
}

}  // namespace

GgufBuilder tiny_gguf(const model::ModelConfig& config, uint64_t seed) {
  GgufBuilder gguf;
  gguf.string("general.architecture", "llama");
  gguf.u32("llama.block_count", static_cast<uint32_t>(config.num_layers));
  gguf.u32("llama.context_length", static_cast<uint32_t>(config.max_position_embeddings));
  gguf.u32("llama.embedding_length", static_cast<uint32_t>(config.hidden_size));
  gguf.u32("llama.feed_forward_length", static_cast<uint32_t>(config.intermediate_size));
  gguf.u32("llama.attention.head_count", static_cast<uint32_t>(config.num_heads));
  gguf.u32("llama.attention.head_count_kv", static_cast<uint32_t>(config.num_kv_heads));
  gguf.f32("llama.attention.layer_norm_rms_epsilon", static_cast<float>(config.norm_eps));
  gguf.f32("llama.rope.freq_base", static_cast<float>(config.rope.theta));
  gguf.u32("tokenizer.ggml.bos_token_id", 1);
  gguf.u32("tokenizer.ggml.eos_token_id", 2);
  for (const F32Tensor& tensor : tiny_weights(config, seed)) {
    const bool rotated = tensor.name.find("q_proj") != std::string::npos ||
                         tensor.name.find("k_proj") != std::string::npos;
    const auto values =
        rotated ? interleave_rows(tensor, static_cast<size_t>(config.head_dim)) : tensor.values;
    gguf.tensor(gguf_name(tensor.name), {tensor.shape.rbegin(), tensor.shape.rend()}, 0,
                bytes_of(values));
  }
  return gguf;
}

void write_tiny_model(const fs::path& folder, const model::ModelConfig& config, uint64_t seed) {
  fs::create_directories(folder);
  std::ofstream(folder / "config.json") << tiny_config_json(config.tie_word_embeddings).dump();
  std::ofstream(folder / "model.safetensors", std::ios::binary)
      << safetensors_bytes(tiny_weights(config, seed));
}

}  // namespace longgen::testing
