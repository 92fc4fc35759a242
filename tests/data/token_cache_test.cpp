#include "longgen/data/token_cache.h"

#include <gmock/gmock.h>

#include <fstream>

#include "longgen/base/error.h"
#include "longgen/base/log.h"
#include "longgen/base/mapped_file.h"
#include "tests/data/data_testing.h"

namespace longgen::data {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> shards_in(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".tokens") found.push_back(entry.path());
  }
  return found;
}

std::string text_of(const TokenShard& shard, int64_t document) {
  std::vector<int32_t> ids(shard.tokens(document));
  shard.read(document, 0, ids);
  return show(ids);
}

TEST(TokenCache, TokenisesOnce) {
  ScratchFolder folder;
  folder.write("text/a.txt", "alpha");
  folder.write("text/b.jsonl", "{\"text\": \"beta\"}\n{\"text\": \"\"}\n{\"text\": \"gamma\"}\n");
  int calls = 0;
  for (int round = 0; round < 2; ++round) {
    const TokenCache cache(folder.path() / "cache", byte_encoder(&calls), "text", true);
    const auto shards = cache.load(folder.path() / "text");
    ASSERT_EQ(shards.size(), 1u);
    ASSERT_EQ(shards[0].documents(), 4);
    EXPECT_EQ(text_of(shards[0], 0), "alpha");
    EXPECT_EQ(text_of(shards[0], 1), "beta");
    EXPECT_EQ(text_of(shards[0], 2), "");
    EXPECT_EQ(text_of(shards[0], 3), "gamma");
    EXPECT_EQ(calls, 4);
  }
}

TEST(TokenCache, NoticesChangedTextAndTokenizer) {
  ScratchFolder folder;
  const fs::path file = folder.write("a.txt", "alpha");
  int calls = 0;
  Encoder encoder = byte_encoder(&calls);
  const auto load = [&] {
    return TokenCache(folder.path() / "cache", encoder, "text", true).load(file);
  };
  load();
  folder.write("a.txt", "alphabet");
  EXPECT_EQ(text_of(load()[0], 0), "alphabet");
  EXPECT_EQ(calls, 2);
  encoder.fingerprint = "others";
  load();
  EXPECT_EQ(calls, 3);
  encoder.vocab_size = 70000;  // wide ids
  encoder.fingerprint = "wide";
  EXPECT_EQ(text_of(load()[0], 0), "alphabet");
}

TEST(TokenCache, ContentHashIgnoresNamesAndTimes) {
  ScratchFolder folder;
  const TokenCache cache(folder.path() / "cache", byte_encoder(), "text", true);
  const auto a = cache.load(folder.write("a.txt", "same"));
  const auto b = cache.load(folder.write("b.txt", "same"));
  const auto c = cache.load(folder.write("c.txt", "samf"));
  EXPECT_EQ(a[0].content_hash(), b[0].content_hash());
  EXPECT_NE(a[0].content_hash(), c[0].content_hash());
}

// Every truncation and every flipped byte is noticed, and the text tokenised again.
TEST(TokenCache, RebuildsADamagedShard) {
  ScratchFolder folder;
  const fs::path file = folder.write("a.txt", "alpha");
  const TokenCache cache(folder.path() / "cache", byte_encoder(), "text", true);
  cache.load(file);
  const fs::path shard = shards_in(folder.path() / "cache").at(0);
  const std::string whole = read_text_file(shard);
  spdlog::set_level(spdlog::level::off);  // a warning for each of hundreds
  const auto damage = [&](const std::string& bytes) {
    std::ofstream(shard, std::ios::binary | std::ios::trunc)
        .write(bytes.data(), static_cast<long>(bytes.size()));
    EXPECT_EQ(text_of(cache.load(file)[0], 0), "alpha");
    EXPECT_EQ(read_text_file(shard), whole);
  };
  for (size_t length = 0; length < whole.size(); length += 7) damage(whole.substr(0, length));
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x41);
    damage(bytes);
  }
  spdlog::set_level(spdlog::level::info);
}

// A file whose hash is right but whose sizes are absurd was made on purpose.
TEST(TokenCache, DistrustsSizesUnderARightHash) {
  ScratchFolder folder;
  const fs::path path = folder.path() / "x.tokens";
  TokenShardWriter writer(path, "description", 257);
  writer.add(std::vector<int32_t>{1, 2, 3});
  writer.finish();
  const std::string whole = read_text_file(path);
  EXPECT_NO_THROW(TokenShard(path, "description", 257));
  EXPECT_THROW(TokenShard(path, "another", 257), Error);
  const size_t counts = whole.size() - 32;  // u64 documents, u64 tokens, hash
  for (const size_t at : {counts, counts + 8, counts - 8, counts - 16}) {
    for (const uint64_t value : {uint64_t{0}, uint64_t{2}, uint64_t{1} << 40, ~uint64_t{0}}) {
      std::string bytes = whole;
      std::memcpy(bytes.data() + at, &value, 8);
      if (bytes == whole) continue;
      const Hash128 hash = hash_text(std::string_view(bytes).substr(0, bytes.size() - 16));
      std::memcpy(bytes.data() + bytes.size() - 16, &hash.high, 8);
      std::memcpy(bytes.data() + bytes.size() - 8, &hash.low, 8);
      // Two counts that agree on the size may still describe another valid file; none does here,
      // since the offsets must end at the number of tokens.
      std::ofstream(path, std::ios::binary | std::ios::trunc)
          .write(bytes.data(), static_cast<long>(bytes.size()));
      try {
        TokenShard(path, "description", 257);
        ADD_FAILURE() << at << " " << value;
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), ::testing::HasSubstr("x.tokens"));
      }
    }
  }
}

TEST(TokenCache, RefusesIdsOutsideTheVocabulary) {
  ScratchFolder folder;
  TokenShardWriter writer(folder.path() / "x.tokens", "d", 257);
  EXPECT_THROW(writer.add(std::vector<int32_t>{257}), Error);
  EXPECT_THROW(writer.add(std::vector<int32_t>{-1}), Error);
}

}  // namespace
}  // namespace longgen::data
