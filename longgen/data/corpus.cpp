#include "longgen/data/corpus.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string_view>

#include "longgen/base/error.h"
#include "longgen/base/rng.h"

namespace longgen::data {
namespace {

// Streams below this belong to the packer's epochs.
constexpr uint64_t kSplitStream = uint64_t{1} << 62;

void check_options(const std::vector<SourceOptions>& sources) {
  if (sources.empty()) fail_usage("no training data; name files or folders with data.paths");
  size_t weighted = 0;
  for (const SourceOptions& source : sources) {
    if (!std::isfinite(source.weight) || source.weight < 0) {
      fail_usage("data.weights: {} for {} is not a positive number", source.weight,
                 source.path.string());
    }
    weighted += source.weight > 0;
    if (source.max_document_tokens != 0 && source.max_document_tokens < 2) {
      fail_usage("data.max_document_tokens: {} leaves no room for a target; use 2 or more",
                 source.max_document_tokens);
    }
  }
  if (weighted != 0 && weighted != sources.size()) {
    fail_usage("data.weights: {} of {} sources have a weight above 0; weigh all of them or none",
               weighted, sources.size());
  }
}

}  // namespace

TokenSource::TokenSource(SourceOptions options, std::vector<TokenShard> shards)
    : options_(std::move(options)), shards_(std::move(shards)) {
  first_document_.push_back(0);
  for (const TokenShard& shard : shards_) {
    first_document_.push_back(first_document_.back() + shard.documents());
  }
}

std::pair<const TokenShard*, int64_t> TokenSource::find(int64_t document) const {
  require(document >= 0 && document < documents(), "document {} of {}", document, documents());
  const auto after = std::upper_bound(first_document_.begin(), first_document_.end(), document);
  const size_t shard = static_cast<size_t>(after - first_document_.begin()) - 1;
  return {&shards_[shard], document - first_document_[shard]};
}

int64_t TokenSource::tokens(int64_t document) const {
  const auto [shard, index] = find(document);
  return shard->tokens(index);
}

void TokenSource::read(int64_t document, int64_t begin, std::span<int32_t> out) const {
  const auto [shard, index] = find(document);
  shard->read(index, begin, out);
}

void TokenSource::hash_into(Hasher& hasher) const {
  for (const TokenShard& shard : shards_) hasher.update(shard.content_hash().hex());
}

Corpus::Corpus(const TokenCache& cache, const std::vector<SourceOptions>& sources)
    : bos_(cache.encoder().bos) {
  check_options(sources);
  for (const SourceOptions& options : sources) {
    sources_.emplace_back(options, cache.load(options.path));
    const TokenSource& source = sources_.back();
    const size_t before = documents_.size();
    for (int64_t i = 0; i < source.documents(); ++i) {
      const int64_t tokens = source.tokens(i);
      if (tokens > 0) documents_.push_back({static_cast<int32_t>(sources_.size() - 1), i, tokens});
    }
    if (documents_.size() == before) {
      fail("{}: holds no text at all; training needs at least one document that is not empty",
           options.path.string());
    }
  }
}

int64_t Corpus::tokens() const {
  int64_t sum = 0;
  for (const Document& document : documents_) sum += document.tokens;
  return sum;
}

Hash128 Corpus::hash() const {
  Hasher hasher;
  for (const TokenSource& source : sources_) {
    source.hash_into(hasher);
    hasher.update(";");
  }
  return hasher.digest();
}

std::pair<std::vector<Document>, std::vector<Document>> Corpus::split(double fraction,
                                                                      uint64_t seed) const {
  if (!(fraction > 0 && fraction < 1)) {
    fail_usage("data.eval_fraction: {} is not between 0 and 1", fraction);
  }
  std::vector<bool> held(documents_.size());
  for (size_t s = 0; s < sources_.size(); ++s) {
    std::vector<int64_t> mine;
    int64_t total = 0, taken = 0;
    for (size_t i = 0; i < documents_.size(); ++i) {
      if (documents_[i].source != static_cast<int32_t>(s)) continue;
      mine.push_back(static_cast<int64_t>(i));
      total += documents_[i].tokens;
    }
    shuffle(mine, seed, kSplitStream + s);
    for (size_t k = 0; k + 1 < mine.size() && taken < fraction * total; ++k) {
      held[mine[k]] = true;
      taken += documents_[mine[k]].tokens;
    }
  }
  std::pair<std::vector<Document>, std::vector<Document>> parts;
  for (size_t i = 0; i < documents_.size(); ++i) {
    (held[i] ? parts.second : parts.first).push_back(documents_[i]);
  }
  if (parts.second.empty()) {
    fail(
        "data.eval_fraction: nothing can be held out, since every source is a single document; "
        "name held-out text with data.eval");
  }
  return parts;
}

void shuffle(std::span<int64_t> values, uint64_t seed, uint64_t stream) {
  Rng rng(seed, stream);
  for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[rng.below(i)]);
}

}  // namespace longgen::data
