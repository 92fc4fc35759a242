// Tokens of a group of files, written once.
//
// Layout, little-endian: "LGTOKENS", u32 version, u32 bytes a token (2 or 4), u64 length of the
// description, the description (text: what the tokens were made from), padding to 8; the tokens of
// all documents, padding to 8; u64 offsets[documents + 1]; u64 documents; u64 tokens; XXH3-128 of
// everything before (u64 high, u64 low). No BOS: the packer adds it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "longgen/base/atomic_file.h"
#include "longgen/base/mapped_file.h"
#include "longgen/data/hash.h"

namespace longgen::data {

class TokenShardWriter {
 public:
  // Throws Error naming the file. Nothing appears at `path` before finish().
  TokenShardWriter(std::filesystem::path path, const std::string& description, int64_t vocab_size);
  ~TokenShardWriter();

  // One document; ids inside [0, vocab_size).
  void add(std::span<const int32_t> ids);
  void finish();

 private:
  void put(std::span<const std::byte> bytes);
  void put_number(uint64_t value, size_t bytes);
  void pad();
  void flush();

  AtomicFile file_;
  Hasher hasher_;
  int64_t vocab_size_;
  uint64_t written_ = 0, tokens_ = 0;
  std::vector<std::byte> buffer_;
  std::vector<uint64_t> offsets_ = {0};
};

class TokenShard {
 public:
  // Reads and checks the whole file: structure, hash, ids. Throws Error naming file and field when
  // it is torn, foreign, or made from something other than `description`.
  TokenShard(const std::filesystem::path& path, const std::string& description, int64_t vocab_size);

  int64_t documents() const { return documents_; }
  int64_t tokens() const { return tokens_; }
  int64_t tokens(int64_t document) const;
  // Copies `out.size()` ids of a document from token `begin`.
  void read(int64_t document, int64_t begin, std::span<int32_t> out) const;
  // Of the tokens and document boundaries alone: the same for the same text in other files.
  Hash128 content_hash() const { return content_hash_; }

 private:
  void check_offsets(const std::string& name) const;
  void check_ids(const std::string& name, int64_t vocab_size) const;

  MappedFile file_;
  int64_t documents_ = 0, tokens_ = 0;
  const uint16_t* narrow_ = nullptr;  // one of narrow_ and wide_ is set
  const uint32_t* wide_ = nullptr;
  const uint64_t* offsets_ = nullptr;
  Hash128 content_hash_;
};

}  // namespace longgen::data
