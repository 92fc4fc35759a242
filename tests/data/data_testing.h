// A scratch folder and a tokenizer whose ids are bytes, for tests of the data room.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/data/corpus.h"
#include "longgen/data/token_cache.h"
#include "tests/testing/scratch_folder.h"

namespace longgen::data {

using testing::ScratchFolder;

constexpr int32_t kBos = 256;

// `calls` counts the documents encoded.
inline Encoder byte_encoder(int* calls = nullptr) {
  Encoder encoder;
  encoder.fingerprint = "bytes";
  encoder.vocab_size = 257;
  encoder.bos = kBos;
  encoder.encode = [calls](std::string_view text, std::vector<int32_t>& ids) {
    if (calls != nullptr) ++*calls;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  };
  return encoder;
}

// Ids as text: BOS is '|'.
inline std::string show(const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) text += id == kBos ? '|' : id < 0 ? '-' : static_cast<char>(id);
  return text;
}

}  // namespace longgen::data
