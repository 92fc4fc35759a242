// The text that the demo's model learns from: public-domain books and generated documents.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace longgen::cli {

// Every document is BOS and length - 1 bytes.
inline constexpr int64_t kDemoShort = 512;  // what the model was pretrained at
inline constexpr int64_t kDemoLong = 4096;  // what it is extended to

// The two books that are part of the program, as ASCII.
std::vector<std::string> demo_books();
// A third one, never trained on.
std::string demo_held_out_text();

// `documents` documents of kDemoShort tokens in one JSONL file: 65 % exercises, 35 % windows of the
// books (files or folders).
void write_pretraining_text(const std::filesystem::path& file,
                            const std::vector<std::filesystem::path>& books, int64_t documents,
                            uint64_t seed);

// `rounds` times 16K tokens in one JSONL file a length: one document of 4,096 tokens, two of 2,048,
// four of 1,024 and eight of 512; of them 80, 70, 60 and 35 % with planted facts, the rest windows
// of the books.
void write_extension_text(const std::filesystem::path& folder, int64_t rounds, uint64_t seed);

}  // namespace longgen::cli
