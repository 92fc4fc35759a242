#include "longgen/data/token_shard.h"

#include <algorithm>
#include <cstring>

#include "longgen/base/byte_reader.h"
#include "longgen/base/checked.h"
#include "longgen/base/error.h"

namespace longgen::data {
namespace {

constexpr std::string_view kMagic = "LGTOKENS";
constexpr uint32_t kVersion = 1;
constexpr size_t kBufferBytes = size_t{1} << 20;
constexpr uint64_t kTrailerBytes = 4 * sizeof(uint64_t);

size_t token_width(int64_t vocab_size) { return vocab_size <= 65536 ? 2 : 4; }

}  // namespace

TokenShardWriter::TokenShardWriter(std::filesystem::path path, const std::string& description,
                                   int64_t vocab_size)
    : file_(std::move(path)), vocab_size_(vocab_size) {
  buffer_.reserve(kBufferBytes);
  put(std::as_bytes(std::span(kMagic)));
  put_number(kVersion, 4);
  put_number(token_width(vocab_size), 4);
  put_number(description.size(), 8);
  put(std::as_bytes(std::span(description)));
  pad();
}

TokenShardWriter::~TokenShardWriter() = default;

void TokenShardWriter::add(std::span<const int32_t> ids) {
  const size_t width = token_width(vocab_size_);
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size_) {
      fail("the tokenizer gave id {}, outside its vocabulary of {}", id, vocab_size_);
    }
    put_number(static_cast<uint64_t>(id), width);
  }
  tokens_ += ids.size();
  offsets_.push_back(tokens_);
}

void TokenShardWriter::finish() {
  pad();
  put(std::as_bytes(std::span(offsets_)));
  put_number(offsets_.size() - 1, 8);
  put_number(tokens_, 8);
  flush();
  const Hash128 hash = hasher_.digest();
  put_number(hash.high, 8);
  put_number(hash.low, 8);
  flush();
  file_.commit();
}

void TokenShardWriter::put(std::span<const std::byte> bytes) {
  written_ += bytes.size();
  if (buffer_.size() + bytes.size() > kBufferBytes) flush();
  if (bytes.size() > kBufferBytes) {
    hasher_.update(bytes);
    file_.write(bytes);
  } else {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
}

void TokenShardWriter::put_number(uint64_t value, size_t bytes) {
  put(std::as_bytes(std::span(&value, 1)).first(bytes));
}

void TokenShardWriter::pad() {
  const uint64_t zero = 0;
  put(std::as_bytes(std::span(&zero, 1)).first(round_up<uint64_t>(written_, 8) - written_));
}

void TokenShardWriter::flush() {
  hasher_.update(buffer_);
  file_.write(buffer_);
  buffer_.clear();
}

TokenShard::TokenShard(const std::filesystem::path& path, const std::string& description,
                       int64_t vocab_size)
    : file_(path) {
  const std::string name = path.string();
  const auto bytes = file_.bytes();
  ByteReader reader(bytes, name);
  const auto magic = reader.take(kMagic.size(), "magic");
  if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0) {
    fail("{}: not a token shard", name);
  }
  const auto version = reader.read<uint32_t>("version");
  if (version != kVersion) fail("{}: version {}, expected {}", name, version, kVersion);
  const auto width = reader.read<uint32_t>("bytes a token");
  if (width != token_width(vocab_size)) fail("{}: {} bytes a token", name, width);
  const auto length = reader.read<uint64_t>("description length");
  const auto found = reader.take(length, "description");
  if (std::string_view(reinterpret_cast<const char*>(found.data()), found.size()) != description) {
    fail("{}: was made from other files or by another tokenizer", name);
  }
  reader.seek(round_up<uint64_t>(reader.offset(), 8), "tokens");
  const uint64_t body = reader.offset();

  if (reader.remaining() < kTrailerBytes) fail("{}: the file ends before its trailer", name);
  reader.seek(bytes.size() - kTrailerBytes, "trailer");
  const auto documents = reader.read<uint64_t>("documents");
  const auto tokens = reader.read<uint64_t>("tokens");
  Hash128 hash;
  hash.high = reader.read<uint64_t>("hash");
  hash.low = reader.read<uint64_t>("hash");
  if (hash_bytes(bytes.first(bytes.size() - 16)) != hash) {
    fail("{}: its contents do not match its hash; the file is torn", name);
  }
  // The hash does not vouch for intent: sizes are still checked before they become pointers.
  if (documents > bytes.size() / 8 || tokens > bytes.size() / width) {
    fail("{}: {} documents and {} tokens do not fit its {} bytes", name, documents, tokens,
         bytes.size());
  }
  const uint64_t table = checked_mul<uint64_t>(checked_add<uint64_t>(documents, 1), 8);
  const uint64_t payload = round_up<uint64_t>(checked_mul<uint64_t>(tokens, width), 8);
  const uint64_t expected =
      checked_add(checked_add(checked_add(body, payload), table), kTrailerBytes);
  if (expected != bytes.size()) {
    fail("{}: {} documents and {} tokens do not fit its {} bytes", name, documents, tokens,
         bytes.size());
  }
  documents_ = static_cast<int64_t>(documents);
  tokens_ = static_cast<int64_t>(tokens);
  if (width == 2) narrow_ = reinterpret_cast<const uint16_t*>(bytes.data() + body);
  if (width == 4) wide_ = reinterpret_cast<const uint32_t*>(bytes.data() + body);
  offsets_ = reinterpret_cast<const uint64_t*>(bytes.data() + body + payload);
  check_offsets(name);
  check_ids(name, vocab_size);
  content_hash_ = hash_bytes(bytes.subspan(body, payload + table));
}

void TokenShard::check_offsets(const std::string& name) const {
  bool ascending = offsets_[0] == 0 && offsets_[documents_] == static_cast<uint64_t>(tokens_);
  for (int64_t i = 0; i < documents_; ++i) ascending = ascending && offsets_[i] <= offsets_[i + 1];
  if (!ascending) fail("{}: document offsets are not ascending", name);
}

void TokenShard::check_ids(const std::string& name, int64_t vocab_size) const {
  int64_t largest = 0;
  for (int64_t i = 0; i < tokens_; ++i) {
    largest = std::max<int64_t>(largest, narrow_ ? narrow_[i] : wide_[i]);
  }
  if (largest >= vocab_size) {
    fail("{}: token id {} is outside the vocabulary of {}", name, largest, vocab_size);
  }
}

int64_t TokenShard::tokens(int64_t document) const {
  return static_cast<int64_t>(offsets_[document + 1] - offsets_[document]);
}

void TokenShard::read(int64_t document, int64_t begin, std::span<int32_t> out) const {
  const int64_t count = static_cast<int64_t>(out.size());
  require(begin >= 0 && begin + count <= tokens(document), "tokens [{}, {}) of a document of {}",
          begin, begin + count, tokens(document));
  const uint64_t first = offsets_[document] + static_cast<uint64_t>(begin);
  for (int64_t i = 0; i < count; ++i) {
    out[i] = static_cast<int32_t>(narrow_ ? narrow_[first + i] : wide_[first + i]);
  }
}

}  // namespace longgen::data
