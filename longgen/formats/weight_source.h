// The tensors of a model file and where in them the parameters lie, whatever kind of file it is.
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
#include "longgen/formats/stored_rows.h"
#include "longgen/model/weights.h"

namespace longgen::formats {

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // Stored tensors in the family's standard spelling, without those that carry no parameter.
  virtual std::vector<std::string> names() const = 0;
  virtual bool has(std::string_view name) const = 0;
  // The following take one of names().
  virtual std::vector<int64_t> shape(std::string_view name) const = 0;
  virtual std::string describe(std::string_view name) const = 0;  // "file: tensor name [..] BF16"
  virtual bool is_bf16(std::string_view name) const = 0;
  virtual bool same_contents(std::string_view a, std::string_view b) const = 0;

  // Where a parameter lies; the tensor need not exist.
  virtual StoredRows rows_of(const model::ParamSpec& spec) const = 0;
  // The parameter in `destination`, which has its shape and any floating dtype. Throws Error when
  // the stored tensor is absent or has another shape.
  virtual void read(const model::ParamSpec& spec, const Tensor& destination) const = 0;
  // How a matrix is stored when products can take it as it is, kPlain otherwise.
  virtual WeightScheme scheme(const model::ParamSpec&) const { return WeightScheme::kPlain; }
  // The matrix in `destination` of its scheme. Throws Error like read(), and when a scale is NaN or
  // infinite.
  virtual void read_quantized(const model::ParamSpec& spec, const WeightView& destination) const;
  virtual void drop_resident() const = 0;
};

// Both refer to `config`, the second to `file` too.
std::unique_ptr<WeightSource> make_safetensors_source(const Family& family,
                                                      const model::ModelConfig& config,
                                                      const std::filesystem::path& directory);
std::unique_ptr<WeightSource> make_gguf_source(const GgufFile& file,
                                               const model::ModelConfig& config);

// Throws Error naming every stored tensor that is missing, has another shape, or is no parameter.
// `where` names the model.
void check_weights(const WeightSource& source, const model::ModelConfig& config,
                   const std::string& where);
// Throws Error when the tensor holds NaN or infinity.
void read_finite(const WeightSource& source, const model::ParamSpec& spec,
                 const Tensor& destination);

}  // namespace longgen::formats
