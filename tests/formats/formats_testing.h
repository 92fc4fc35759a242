// Small files of every format, valid or not, for the tests of readers and writers.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/base/error.h"
#include "longgen/formats/dequantize.h"
#include "longgen/model/config.h"
#include "longgen/model/weights.h"
#include "tests/testing/error_of.h"

namespace longgen::testing {

using Json = nlohmann::ordered_json;

// A folder that goes away with the test.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  // Writes a file and gives its path.
  std::filesystem::path write(const std::string& name, std::string_view contents) const;

 private:
  std::filesystem::path path_;
};

std::string read_file(const std::filesystem::path& path);
std::filesystem::path data_file(const std::string& name);  // of tests/formats/data

// The bytes of a number.
template <typename T>
std::string bytes_of(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}
template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

// Header length, header, data: no checks, so that broken files can be made.
std::string safetensors_bytes(std::string_view header, std::string_view data);
// A valid file of f32 tensors.
struct F32Tensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};
std::string safetensors_bytes(const std::vector<F32Tensor>& tensors);

// Writes GGUF as the specification says, with every field open to abuse.
class GgufBuilder {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;  // written as general.alignment when not 32
  std::string magic = "GGUF";
  int64_t tensor_count = -1, key_count = -1;  // >= 0: lie about it

  template <typename T>
  void add(const std::string& key, uint32_t type, T value) {
    add_raw(key, type, bytes_of(value));
  }
  void u32(const std::string& key, uint32_t value) { add(key, 4, value); }
  void f32(const std::string& key, float value) { add(key, 6, value); }
  void string(const std::string& key, std::string_view value);
  void strings(const std::string& key, const std::vector<std::string>& values);
  void add_raw(const std::string& key, uint32_t type, std::string_view value);
  // Drops every key of this name, so that another value may be given.
  void erase(const std::string& key);

  // dims as the file has them: columns first. offset < 0: the next aligned one.
  void tensor(const std::string& name, std::vector<uint64_t> dims, uint32_t type,
              std::string_view data, int64_t offset = -1);
  void erase_tensor(const std::string& name);
  std::string build() const;

 private:
  struct Tensor {
    std::string name;
    std::vector<uint64_t> dims;
    uint32_t type;
    std::string data;
    int64_t offset;
  };
  std::vector<std::pair<std::string, std::string>> keys_;  // name, type and value
  std::vector<Tensor> tensors_;
};

// A tiny Llama: 32 words, hidden 32, 2 heads of 16 (1 for keys), MLP 48, 2 layers.
model::ModelConfig tiny_config(bool tied = false);
Json tiny_config_json(bool tied = false);
// Weights of a config, normally distributed from a seed, f32, by canonical name.
std::vector<F32Tensor> tiny_weights(const model::ModelConfig& config, uint64_t seed = 1);
// The same as a GGUF file (Q and K rows interleaved as llama.cpp does), f32.
GgufBuilder tiny_gguf(const model::ModelConfig& config, uint64_t seed = 1);
// config.json and model.safetensors of tiny_weights.
void write_tiny_model(const std::filesystem::path& folder, const model::ModelConfig& config,
                      uint64_t seed = 1);

}  // namespace longgen::testing
