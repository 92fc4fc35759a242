// All documents of a run, from several sources with weights, and the share held out for evaluation.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "longgen/data/hash.h"
#include "longgen/data/token_cache.h"

namespace longgen::data {

struct SourceOptions {
  std::filesystem::path path;
  // The source's share of an epoch's tokens, relative to the other sources. Give one to every
  // source or to none (0): then every document is seen once an epoch.
  double weight = 0;
  // Documents are cut into pieces of at most this many tokens, BOS included; 0: not cut.
  int64_t max_document_tokens = 0;
};

// One tokenised file or folder.
class TokenSource {
 public:
  TokenSource(SourceOptions options, std::vector<TokenShard> shards);

  const SourceOptions& options() const { return options_; }
  int64_t documents() const { return first_document_.back(); }
  int64_t tokens(int64_t document) const;
  void read(int64_t document, int64_t begin, std::span<int32_t> out) const;
  // Of the shards' contents, whatever the files are called.
  void hash_into(Hasher& hasher) const;

 private:
  std::pair<const TokenShard*, int64_t> find(int64_t document) const;

  SourceOptions options_;
  std::vector<TokenShard> shards_;
  std::vector<int64_t> first_document_;  // of each shard, then the number of documents
};

// A document that holds at least one token.
struct Document {
  int32_t source = 0;
  int64_t index = 0;   // in the source
  int64_t tokens = 0;  // without BOS
};

class Corpus {
 public:
  // Throws Error when a source is empty, UsageError when weights are absurd or given to some only.
  Corpus(const TokenCache& cache, const std::vector<SourceOptions>& sources);

  const std::vector<TokenSource>& sources() const { return sources_; }
  const std::vector<Document>& documents() const { return documents_; }
  int64_t tokens() const;
  int32_t bos() const { return bos_; }
  Hash128 hash() const;

  // Cuts the documents into (kept, held out): documents drawn by `seed` are held out until they
  // hold `fraction` of the tokens of their source. Every source keeps at least one document. Throws
  // Error when nothing can be held out because every source is one document.
  std::pair<std::vector<Document>, std::vector<Document>> split(double fraction,
                                                                uint64_t seed) const;

 private:
  std::vector<TokenSource> sources_;
  std::vector<Document> documents_;
  int32_t bos_;
};

// Fisher-Yates with draws from Rng(seed, stream): the same order on every platform.
void shuffle(std::span<int64_t> values, uint64_t seed, uint64_t stream);

}  // namespace longgen::data
