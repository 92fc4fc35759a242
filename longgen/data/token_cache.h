// Text tokenised once. A source's files are grouped into shards of consecutive files; a shard is
// found again by what it was made from: tokenizer, paths, sizes and modification times.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/data/reader.h"
#include "longgen/data/token_shard.h"

namespace longgen::data {

// What the cache needs of a tokenizer.
struct Encoder {
  std::string fingerprint;  // changes whenever the same text could give other ids
  int64_t vocab_size = 0;
  int32_t bos = 0;  // put before every document by the packer
  // Appends the ids of `text`, without BOS or EOS.
  std::function<void(std::string_view text, std::vector<int32_t>& ids)> encode;
};

class TokenCache {
 public:
  // Shards live in `folder`, which is created. `text_field`: the JSONL member that holds the text.
  TokenCache(std::filesystem::path folder, Encoder encoder, std::string text_field = "text",
             bool quiet = false);

  // The shards of a file or folder, tokenising what is not cached yet. A damaged shard is named in
  // a warning and rebuilt.
  std::vector<TokenShard> load(const std::filesystem::path& source) const;

  const Encoder& encoder() const { return encoder_; }

 private:
  using Files = std::vector<SourceFile>;
  std::string describe(const Files& files) const;
  std::optional<TokenShard> open(const std::filesystem::path& path,
                                 const std::string& description) const;
  void build(const std::filesystem::path& path, const std::string& description, const Files& files,
             const std::function<void(int64_t bytes)>& done) const;

  std::filesystem::path folder_;
  Encoder encoder_;
  std::string text_field_;
  bool quiet_;
};

}  // namespace longgen::data
