// Stored tensors under canonical names, whatever file they lie in.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/formats/family.h"
#include "longgen/formats/gguf.h"
#include "longgen/formats/safetensors.h"
#include "longgen/model/weights.h"

namespace longgen::formats {

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // Canonical names; tensors that the family does not know keep the file's name.
  virtual std::vector<std::string> names() const = 0;
  virtual bool has(std::string_view name) const = 0;
  // The following take one of names().
  virtual std::vector<int64_t> shape(std::string_view name) const = 0;
  virtual std::string describe(std::string_view name) const = 0;  // "file: tensor name [..] BF16"
  virtual bool is_bf16(std::string_view name) const = 0;
  virtual bool same_contents(std::string_view a, std::string_view b) const = 0;
  // `destination` has the tensor's shape; any floating dtype.
  virtual void read(std::string_view name, const Tensor& destination) const = 0;
  virtual void drop_resident() const = 0;
};

std::unique_ptr<WeightSource> make_safetensors_source(const Family& family,
                                                      const std::filesystem::path& directory);
// Refers to `file` and `config`.
std::unique_ptr<WeightSource> make_gguf_source(const Family& family, const GgufFile& file,
                                               const model::ModelConfig& config);

// Throws Error naming every parameter that is missing or has another shape and every stored tensor
// that is no parameter. `where` names the model.
void check_weights(const WeightSource& source, const model::ModelConfig& config,
                   const std::string& where);
// Throws Error when the tensor holds NaN or infinity.
void read_finite(const WeightSource& source, std::string_view name, const Tensor& destination);

}  // namespace longgen::formats
