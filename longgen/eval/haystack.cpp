#include "longgen/eval/haystack.h"

#include <algorithm>
#include <utility>

#include "longgen/base/error.h"
#include "longgen/data/reader.h"

namespace longgen::eval {
namespace {

constexpr std::string_view kFiller =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. ";

// A thousand times what the longest samples need; a library of books need not be in memory.
constexpr size_t kMostBytes = 64'000'000;

// Books come with CR LF; the model should see what other texts have.
std::string unify_line_ends(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r') {
      out += '\n';
      if (i + 1 < text.size() && text[i + 1] == '\n') ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

size_t character_start(std::string_view text, size_t at) {
  at = std::min(at, text.size());
  while (at > 0 && at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

Haystack Haystack::filler() { return {std::string(kFiller), "filler", true}; }

Haystack Haystack::text(const std::string& text, std::string name) {
  std::string clean = unify_line_ends(text);
  require(clean.find_first_not_of(" \n\t") != std::string::npos,
          "{} holds no text to hide needles in; give .txt, .md or .jsonl files with text", name);
  return {std::move(clean), std::move(name), false};
}

Haystack Haystack::files(const std::vector<std::filesystem::path>& paths) {
  std::string text, name;
  for (const auto& path : paths) {
    name += (name.empty() ? "" : ", ") + path.string();
    for (const data::SourceFile& file : data::find_files(path)) {
      if (text.size() >= kMostBytes) break;
      data::read_documents(file, "text", [&](std::string_view document) {
        text += document;
        text += '\n';
      });
    }
  }
  return Haystack::text(text, std::move(name));
}

int64_t Haystack::random_start(Rng& rng, int64_t bytes) const {
  const double share = rng.uniform();
  if (filler_) return 0;
  const int64_t room = this->bytes() > bytes ? this->bytes() - bytes : this->bytes();
  const auto drawn = std::min(static_cast<int64_t>(share * static_cast<double>(room)), room - 1);
  const size_t space = text_.find(' ', static_cast<size_t>(drawn));
  constexpr size_t kLongWord = 64;
  if (space != std::string::npos && space + 1 < text_.size() &&
      space < static_cast<size_t>(drawn) + kLongWord) {
    return static_cast<int64_t>(space) + 1;
  }
  return static_cast<int64_t>(character_start(text_, static_cast<size_t>(drawn)));
}

std::string Haystack::piece(int64_t start, int64_t bytes) const {
  const auto wanted = static_cast<size_t>(std::max<int64_t>(bytes, 0));
  std::string out;
  // One byte more tells whether the last character is whole.
  for (size_t at = static_cast<size_t>(start) % text_.size(); out.size() <= wanted; at = 0) {
    out += std::string_view(text_).substr(at, wanted + 1 - out.size());
  }
  out.resize(character_start(out, wanted));
  return out;
}

}  // namespace longgen::eval
