// The text that needles are hidden in.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/base/rng.h"

namespace longgen::eval {

class Haystack {
 public:
  // The five sentences of the pass key task, again and again; every piece begins with the first.
  static Haystack filler();
  // Running text; a piece that reaches the end goes on at the beginning. Line ends become "\n".
  // Throws Error when there is nothing but white space; `name` says what in it.
  static Haystack text(const std::string& text, std::string name);
  // Files and folders of .txt, .md and .jsonl, one after another: the first 64 MB, up to the end of
  // a file. Throws Error.
  static Haystack files(const std::vector<std::filesystem::path>& paths);

  const std::string& name() const { return name_; }
  int64_t bytes() const { return static_cast<int64_t>(text_.size()); }

  // A place where a piece of about `bytes` may begin: behind a space, and early enough for the
  // piece not to meet the end of the text where that is possible.
  int64_t random_start(Rng& rng, int64_t bytes) const;
  // At most `bytes` bytes from `start`, in whole UTF-8 characters.
  std::string piece(int64_t start, int64_t bytes) const;

 private:
  Haystack(std::string text, std::string name, bool filler)
      : text_(std::move(text)), name_(std::move(name)), filler_(filler) {}

  std::string text_, name_;
  bool filler_;
};

// The greatest offset <= at where a UTF-8 character begins (or the text ends).
size_t character_start(std::string_view text, size_t at);

}  // namespace longgen::eval
