#include "longgen/tokenizer/sentencepiece_model.h"

#include <bit>
#include <cstring>

#include "longgen/base/byte_reader.h"
#include "longgen/base/error.h"

namespace longgen::tokenizer {
namespace {

// Wire types of protocol buffers.
enum Wire : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct Field {
  uint32_t number = 0;
  Wire wire = kVarint;
  uint64_t value = 0;      // kVarint, kFixed32, kFixed64
  std::string_view bytes;  // kBytes
};

class ProtoReader {
 public:
  ProtoReader(std::string_view message, const std::string& file, const char* what)
      : reader_(std::as_bytes(std::span(message)), file), what_(what) {}

  bool done() const { return reader_.remaining() == 0; }

  Field next() {
    Field field;
    const uint64_t tag = varint();
    field.number = static_cast<uint32_t>(tag >> 3);
    field.wire = static_cast<Wire>(tag & 7);
    require(tag >> 3 > 0 && tag >> 3 < (1u << 29),
            "{}: {}: field number {} at offset {} is not valid", reader_.file_name(), what_,
            tag >> 3, reader_.offset());
    switch (field.wire) {
      case kVarint:
        field.value = varint();
        break;
      case kFixed64:
        field.value = reader_.read<uint64_t>(what_);
        break;
      case kFixed32:
        field.value = reader_.read<uint32_t>(what_);
        break;
      case kBytes: {
        const auto bytes = reader_.take(varint(), what_);
        field.bytes = {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
        break;
      }
      default:
        fail(
            "{}: {}: wire type {} at offset {} is not valid; the file is damaged or no "
            "SentencePiece model",
            reader_.file_name(), what_, tag & 7, reader_.offset());
    }
    return field;
  }

  // Throws unless the field came in the given form.
  void expect(const Field& field, Wire wire) const {
    require(field.wire == wire, "{}: {}: field {} has wire type {}, expected {}",
            reader_.file_name(), what_, field.number, static_cast<uint32_t>(field.wire),
            static_cast<uint32_t>(wire));
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = reader_.read<uint8_t>(what_);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail("{}: {}: a number at offset {} is too long", reader_.file_name(), what_, reader_.offset());
  }

  ByteReader reader_;
  const char* what_;
};

SentencePieceModel::Piece parse_piece(std::string_view message, const std::string& file) {
  SentencePieceModel::Piece piece;
  ProtoReader reader(message, file, "piece");
  while (!reader.done()) {
    const Field field = reader.next();
    if (field.number == 1) {
      reader.expect(field, kBytes);
      piece.text = field.bytes;
    } else if (field.number == 2) {
      reader.expect(field, kFixed32);
      piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    } else if (field.number == 3) {
      reader.expect(field, kVarint);
      require(field.value >= 1 && field.value <= 6, "{}: piece '{}' has the unknown type {}", file,
              piece.text, field.value);
      piece.type = static_cast<PieceType>(field.value);
    }
  }
  return piece;
}

struct TrainerSpec {
  uint64_t model_type = 1;
  bool byte_fallback = false, space_suffix = false;
  int32_t unk = 0, bos = 1, eos = 2, pad = -1;
};

TrainerSpec parse_trainer_spec(std::string_view message, const std::string& file) {
  TrainerSpec spec;
  ProtoReader reader(message, file, "trainer_spec");
  const auto number = [&](const Field& field) {
    reader.expect(field, kVarint);
    return field.value;
  };
  while (!reader.done()) {
    const Field field = reader.next();
    switch (field.number) {
      case 3:
        spec.model_type = number(field);
        break;
      case 24:
        spec.space_suffix = number(field) != 0;
        break;
      case 35:
        spec.byte_fallback = number(field) != 0;
        break;
      case 40:
        spec.unk = static_cast<int32_t>(number(field));
        break;
      case 41:
        spec.bos = static_cast<int32_t>(number(field));
        break;
      case 42:
        spec.eos = static_cast<int32_t>(number(field));
        break;
      case 43:
        spec.pad = static_cast<int32_t>(number(field));
        break;
      default:
        break;
    }
  }
  return spec;
}

struct NormalizerSpec {
  bool has_map = false, dummy_prefix = true, remove_spaces = true, escape_spaces = true;
};

NormalizerSpec parse_normalizer_spec(std::string_view message, const std::string& file) {
  NormalizerSpec spec;
  ProtoReader reader(message, file, "normalizer_spec");
  while (!reader.done()) {
    const Field field = reader.next();
    if (field.number == 2) spec.has_map |= !field.bytes.empty();
    if (field.number < 3 || field.number > 5) continue;
    reader.expect(field, kVarint);
    (field.number == 3   ? spec.dummy_prefix
     : field.number == 4 ? spec.remove_spaces
                         : spec.escape_spaces) = field.value != 0;
  }
  return spec;
}

void check_supported(const TrainerSpec& trainer, const NormalizerSpec& normalizer,
                     const std::string& file) {
  require(trainer.model_type == 2,
          "{}: SentencePiece model type {} is not supported; only BPE (2) is", file,
          trainer.model_type);
  require(!trainer.space_suffix, "{}: treat_whitespace_as_suffix is not supported", file);
  require(!normalizer.has_map, "{}: a text normaliser (precompiled_charsmap) is not supported",
          file);
  require(!normalizer.remove_spaces, "{}: remove_extra_whitespaces is not supported: it loses text",
          file);
  require(normalizer.escape_spaces, "{}: a model without escape_whitespaces is not supported",
          file);
}

// The id if such a control piece exists.
int32_t control_or_none(const SentencePieceModel& model, int32_t id) {
  const bool there = id >= 0 && static_cast<size_t>(id) < model.pieces.size() &&
                     model.pieces[id].type == PieceType::kControl;
  return there ? id : -1;
}

class ProtoWriter {
 public:
  void number(uint32_t field, uint64_t value) {
    varint(field << 3 | kVarint);
    varint(value);
  }
  void boolean(uint32_t field, bool value) { number(field, value ? 1 : 0); }
  // Negative numbers are written as 64 bits.
  void signed_number(uint32_t field, int32_t value) {
    number(field, static_cast<uint64_t>(static_cast<int64_t>(value)));
  }
  void real(uint32_t field, float value) {
    varint(field << 3 | kFixed32);
    const auto bits = std::bit_cast<uint32_t>(value);
    char bytes[4];
    std::memcpy(bytes, &bits, 4);
    text_.append(bytes, 4);
  }
  void bytes(uint32_t field, std::string_view value) {
    varint(field << 3 | kBytes);
    varint(value.size());
    text_ += value;
  }
  std::string take() { return std::move(text_); }

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_ += static_cast<char>(value | 0x80);
    text_ += static_cast<char>(value);
  }
  std::string text_;
};

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& file) {
  SentencePieceModel model;
  TrainerSpec trainer;
  NormalizerSpec normalizer;
  ProtoReader reader(bytes, file, "SentencePiece model");
  while (!reader.done()) {
    const Field field = reader.next();
    if (field.number >= 1 && field.number <= 3) reader.expect(field, kBytes);
    if (field.number == 1) model.pieces.push_back(parse_piece(field.bytes, file));
    if (field.number == 2) trainer = parse_trainer_spec(field.bytes, file);
    if (field.number == 3) normalizer = parse_normalizer_spec(field.bytes, file);
  }
  require(!model.pieces.empty(), "{}: the SentencePiece model has no pieces", file);
  check_supported(trainer, normalizer, file);
  require(trainer.unk >= 0 && static_cast<size_t>(trainer.unk) < model.pieces.size() &&
              model.pieces[trainer.unk].type == PieceType::kUnknown,
          "{}: trainer_spec.unk_id {} is not the unknown piece", file, trainer.unk);
  model.unk = trainer.unk;
  model.bos = control_or_none(model, trainer.bos);
  model.eos = control_or_none(model, trainer.eos);
  model.pad = control_or_none(model, trainer.pad);
  model.byte_fallback = trainer.byte_fallback;
  model.prefix = normalizer.dummy_prefix ? SpacePrefix::kAfterAdded : SpacePrefix::kNever;
  return model;
}

std::string serialise_sentencepiece_model(const SentencePieceModel& model, bool dummy_prefix) {
  ProtoWriter file;
  for (const auto& piece : model.pieces) {
    ProtoWriter message;
    message.bytes(1, piece.text);
    message.real(2, piece.score);
    if (piece.type != PieceType::kNormal) message.number(3, static_cast<uint64_t>(piece.type));
    file.bytes(1, message.take());
  }
  ProtoWriter trainer;
  trainer.number(3, 2);  // BPE
  trainer.number(4, model.pieces.size());
  trainer.boolean(35, model.byte_fallback);
  const struct {
    uint32_t id_field, piece_field;
    int32_t id;
  } specials[] = {
      {40, 45, model.unk}, {41, 46, model.bos}, {42, 47, model.eos}, {43, 48, model.pad}};
  for (const auto& special : specials) {
    trainer.signed_number(special.id_field, special.id);
    if (special.id >= 0) trainer.bytes(special.piece_field, model.pieces[special.id].text);
  }
  file.bytes(2, trainer.take());
  ProtoWriter normalizer;
  normalizer.bytes(1, "identity");
  normalizer.bytes(2, "");
  normalizer.boolean(3, dummy_prefix);
  normalizer.boolean(4, false);
  normalizer.boolean(5, true);
  file.bytes(3, normalizer.take());
  return file.take();
}

int byte_of_piece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  int value = 0;
  for (const char c : piece.substr(3, 2)) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit && !(c >= 'A' && c <= 'F')) return -1;
    value = value * 16 + (digit ? c - '0' : c - 'A' + 10);
  }
  return value;
}

}  // namespace longgen::tokenizer
