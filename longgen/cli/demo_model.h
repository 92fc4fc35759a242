// The tiny model that is part of the program (recipes/demo-pretrain.toml).
#pragma once

#include <filesystem>
#include <string>

namespace longgen::cli {

// Writes it as a Hugging Face directory; returns its size for people ("1.24M").
std::string write_demo_model(const std::filesystem::path& directory);

}  // namespace longgen::cli
