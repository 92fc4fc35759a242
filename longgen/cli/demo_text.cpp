#include "longgen/cli/demo_text.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "embedded/demo_held_out.h"
#include "embedded/demo_pride_and_prejudice.h"
#include "embedded/demo_treasure_island.h"
#include "longgen/base/atomic_file.h"
#include "longgen/base/error.h"
#include "longgen/base/mapped_file.h"
#include "longgen/data/synthetic_text.h"

namespace longgen::cli {
namespace {

namespace fs = std::filesystem;

// Streams of the seed: one a use, so that no two texts share their draws.
constexpr uint64_t kPretrainingStream = 1, kExtensionStream = 16;
constexpr double kExercises = 0.65;

std::string text_of(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

void write_line(AtomicFile& file, const std::string& document) {
  file.write(nlohmann::json{{"text", document}}.dump() + "\n");
}

std::vector<fs::path> files_below(const std::vector<fs::path>& paths) {
  std::vector<fs::path> files;
  for (const fs::path& path : paths) {
    if (!fs::is_directory(path)) {
      files.push_back(path);
      continue;
    }
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      if (entry.is_regular_file() && entry.path().extension() == ".txt")
        files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  require(!files.empty(), "no .txt files to draw text from");
  return files;
}

}  // namespace

std::vector<std::string> demo_books() {
  return {text_of(embedded::demo_pride_and_prejudice()), text_of(embedded::demo_treasure_island())};
}

std::string demo_held_out_text() { return text_of(embedded::demo_held_out()); }

void write_pretraining_text(const fs::path& file, const std::vector<fs::path>& books,
                            int64_t documents, uint64_t seed) {
  std::vector<std::string> texts;
  for (const fs::path& book : files_below(books)) {
    texts.push_back(data::to_ascii(read_text_file(book)));
  }
  data::SyntheticText source(texts, seed, kPretrainingStream);
  Rng choice(seed, kPretrainingStream + 1);
  AtomicFile out(file);
  for (int64_t i = 0; i < documents; ++i) {
    write_line(out, choice.uniform() < kExercises ? source.exercise(kDemoShort - 1)
                                                  : source.plain(kDemoShort - 1));
  }
  out.commit();
}

void write_extension_text(const fs::path& folder, int64_t rounds, uint64_t seed) {
  struct Kind {
    int64_t tokens;
    double needles;
  };
  constexpr std::array<Kind, 4> kKinds = {{{4096, 0.80}, {2048, 0.70}, {1024, 0.60}, {512, 0.35}}};
  const std::vector<std::string> books = demo_books();
  for (size_t i = 0; i < kKinds.size(); ++i) {
    data::SyntheticText source(books, seed, kExtensionStream + 2 * i);
    Rng choice(seed, kExtensionStream + 2 * i + 1);
    AtomicFile out(folder / fmt::format("{}-tokens.jsonl", kKinds[i].tokens));
    for (int64_t n = 0; n < rounds * (kDemoLong / kKinds[i].tokens); ++n) {
      write_line(out, choice.uniform() < kKinds[i].needles ? source.needles(kKinds[i].tokens - 1)
                                                           : source.plain(kKinds[i].tokens - 1));
    }
    out.commit();
  }
}

}  // namespace longgen::cli
