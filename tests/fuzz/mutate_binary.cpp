// Binary files whose lengths or checksums are set right after a mutation.
#include <algorithm>
#include <cstring>
#include <vector>

#include "longgen/data/hash.h"
#include "tests/fuzz/target.h"

namespace longgen::fuzz {
namespace {

template <typename T>
std::string number(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

// How many bytes of data the header's tensors need: the largest number behind "data_offsets".
size_t data_needed(std::string_view header) {
  size_t end = 0;
  for (size_t at = 0; (at = header.find("data_offsets", at)) != header.npos; ++at) {
    const size_t comma = header.find(',', at), stop = header.find(']', at);
    if (comma == header.npos || stop == header.npos || comma > stop) continue;
    size_t value = 0;
    for (const char c : header.substr(comma, stop - comma)) {
      if (c >= '0' && c <= '9' && value < (size_t{1} << 20))
        value = value * 10 + static_cast<size_t>(c - '0');
    }
    end = std::max(end, value);
  }
  return end;
}

// One field of a protocol buffer's message.
struct ProtoField {
  uint64_t tag = 0;
  std::string value;  // without the length, where there is one
};

bool take_varint(std::string_view& rest, uint64_t& value) {
  value = 0;
  for (int shift = 0; shift < 64 && !rest.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(rest[0]);
    rest.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

std::string varint(uint64_t value) {
  std::string text;
  for (; value >= 0x80; value >>= 7) text += static_cast<char>(value | 0x80);
  return text + static_cast<char>(value);
}

// False when the message is damaged.
bool parse_message(std::string_view rest, std::vector<ProtoField>& fields) {
  while (!rest.empty()) {
    ProtoField field;
    uint64_t length = 0;
    if (!take_varint(rest, field.tag)) return false;
    const std::string_view before = rest;
    switch (field.tag & 7) {
      case 0:
        if (!take_varint(rest, length)) return false;
        field.value = before.substr(0, before.size() - rest.size());
        fields.push_back(field);
        continue;
      case 1:
        length = 8;
        break;
      case 2:
        if (!take_varint(rest, length)) return false;
        break;
      case 5:
        length = 4;
        break;
      default:
        return false;
    }
    if (length > rest.size()) return false;
    field.value = rest.substr(0, length);
    rest.remove_prefix(length);
    fields.push_back(field);
  }
  return true;
}

std::string serialise(const std::vector<ProtoField>& fields) {
  std::string text;
  for (const ProtoField& field : fields) {
    text += varint(field.tag);
    if ((field.tag & 7) == 2) text += varint(field.value.size());
    text += field.value;
  }
  return text;
}

std::string mutate_message(std::string_view bytes, size_t max_size, int depth, Draws& draw,
                           const MutateBytes& mutate_bytes) {
  std::vector<ProtoField> fields;
  if (draw.one_in(8) || !parse_message(bytes, fields) || fields.empty()) {
    return mutate_bytes(std::string(bytes), max_size);
  }
  const size_t chosen = draw.below(fields.size());
  switch (draw.below(8)) {
    case 0:
      fields.erase(fields.begin() + static_cast<int64_t>(chosen));
      break;
    case 1: {
      const ProtoField copy = fields[draw.below(fields.size())];
      fields.insert(fields.begin() + static_cast<int64_t>(chosen), copy);
      break;
    }
    case 2:
      std::swap(fields[chosen], fields[draw.below(fields.size())]);
      break;
    case 3:  // another field number, the same form
      fields[chosen].tag = (draw.below(50) << 3) | (fields[chosen].tag & 7);
      break;
    case 4:
      if ((fields[chosen].tag & 7) == 0) fields[chosen].value = varint(draw.below(8));
      [[fallthrough]];
    default: {
      ProtoField& field = fields[chosen];
      const bool nested = (field.tag & 7) == 2 && depth < 1;
      if (nested)
        field.value = mutate_message(field.value, max_size, depth + 1, draw, mutate_bytes);
      if ((field.tag & 7) == 2 && !nested) field.value = mutate_bytes(field.value, 64);
      if ((field.tag & 7) == 0) field.value = varint(draw.below(size_t{1} << draw.below(63)));
      if ((field.tag & 7) == 5) field.value = number(static_cast<float>(draw.below(100)) - 50);
    }
  }
  return serialise(fields);
}

}  // namespace

std::string mutate_safetensors(std::string_view bytes, size_t max_size, uint32_t seed,
                               const MutateBytes& mutate_bytes) {
  Draws draw(seed);
  uint64_t length = 0;
  if (bytes.size() >= 8) std::memcpy(&length, bytes.data(), 8);
  if (bytes.size() < 8 || length > bytes.size() - 8 || draw.one_in(10)) {
    return mutate_bytes(std::string(bytes), max_size);
  }
  std::string header(bytes.substr(8, length)), data(bytes.substr(8 + length));
  if (draw.one_in(8)) {
    data = mutate_bytes(data, 64);
  } else {
    header =
        mutate_json(header, max_size, static_cast<uint32_t>(draw.below(UINT32_MAX)), mutate_bytes);
  }
  const size_t needed = data_needed(header);
  if (needed <= 4096 && !draw.one_in(10)) data.resize(needed);
  std::string file = number(uint64_t{header.size()}) + header + data;
  if (file.size() > max_size) file.resize(max_size);
  return file;
}

std::string mutate_token_shard(std::string_view bytes, size_t max_size, uint32_t seed,
                               const MutateBytes& mutate_bytes) {
  Draws draw(seed);
  if (bytes.size() < 16 || draw.one_in(10)) return mutate_bytes(std::string(bytes), max_size);
  std::string body = mutate_bytes(std::string(bytes.substr(0, bytes.size() - 16)), max_size - 16);
  const data::Hash128 hash = data::hash_text(body);
  return body + number(hash.high) + number(hash.low);
}

std::string mutate_sentencepiece(std::string_view bytes, size_t max_size, uint32_t seed,
                                 const MutateBytes& mutate_bytes) {
  Draws draw(seed);
  std::string file = mutate_message(bytes, max_size, 0, draw, mutate_bytes);
  if (file.size() > max_size) file.resize(max_size);
  return file;
}

}  // namespace longgen::fuzz
