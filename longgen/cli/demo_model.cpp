#include "longgen/cli/demo_model.h"

#include <span>

#include "embedded/demo_model_config.h"
#include "embedded/demo_model_weights.h"
#include "longgen/base/atomic_file.h"
#include "longgen/base/units.h"
#include "longgen/formats/model_file.h"
#include "longgen/model/weights.h"
#include "longgen/tokenizer/byte_tokenizer.h"

namespace longgen::cli {
namespace {

void write_file(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

}  // namespace

std::string write_demo_model(const std::filesystem::path& directory) {
  create_folders(directory);
  write_file(directory / "model.safetensors", embedded::demo_model_weights());
  write_file(directory / "config.json", embedded::demo_model_config());
  tokenizer::make_byte_tokenizer()->save(directory);
  const auto file = formats::ModelFile::open(directory);
  return format_si(static_cast<double>(model::parameter_count(file.config())));
}

}  // namespace longgen::cli
