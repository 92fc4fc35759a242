// Text to token ids and back. Text is bytes: UTF-8 where it is text, and anything else survives
// too: bytes that are not UTF-8 are left out of normalisation and pre-tokenisation, become tokens
// byte by byte (byte-level BPE merges a run of them as one word), and decode to themselves.
// `tokenizers` takes no such text, llama.cpp's BPE puts U+FFFD for each byte.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "longgen/tokenizer/added_tokens.h"

namespace longgen::formats {
class ModelFile;
}

namespace longgen::tokenizer {

struct EncodeOptions {
  // Puts the BOS id first. Throws Error when the tokenizer has none.
  bool add_bos = false;
  // Special tokens written in the text ("<|im_end|>") become their ids; otherwise they are plain
  // text. Added tokens that are not special (runs of spaces, say) are always recognised.
  bool parse_special = false;
};

struct DecodeOptions {
  bool skip_special = false;
  // The ids follow others: keep the space that SentencePiece puts before a text.
  bool continuation = false;
};

constexpr int32_t kNoToken = -1;
// The largest vocabularies in use have a quarter of a million tokens.
constexpr size_t kMaxVocabulary = size_t{1} << 22;

// What every kind of tokenizer has.
struct TokenizerInfo {
  std::vector<std::string> token_bytes;  // by id; empty for ids that stand for nothing
  std::vector<bool> special;             // by id
  std::vector<AddedToken> added;
  int32_t bos = kNoToken, eos = kNoToken, pad = kNoToken, unk = kNoToken;
  std::vector<int32_t> end_of_generation;  // ascending
  bool adds_bos = false;                   // whether the model was trained with a BOS
  std::string chat_template;               // Jinja; empty: none
  // Files of a Hugging Face directory that save() writes again, byte for byte; empty: save() makes
  // them.
  std::map<std::string, std::string> source_files;

  // Throws Error naming `file` when ids are out of range or an added token is empty.
  void validate(const std::string& file) const;
};

// Immutable once made; every const member may be called from several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // From a GGUF file's metadata, or from the tokenizer files of a Hugging Face directory.
  // Throws Error naming the file and the field.
  static std::unique_ptr<Tokenizer> load(const formats::ModelFile& file);

  std::vector<int32_t> encode(std::string_view text, EncodeOptions options = {}) const;
  // Throws Error for an id outside the vocabulary.
  std::string decode(std::span<const int32_t> ids, DecodeOptions options = {}) const;

  // The bytes that the token adds to a text (SentencePiece's leading space included).
  const std::string& token_bytes(int32_t id) const;
  int32_t vocab_size() const { return static_cast<int32_t>(info_.token_bytes.size()); }
  bool is_special(int32_t id) const;

  // kNoToken where there is none.
  int32_t bos_id() const { return info_.bos; }
  int32_t eos_id() const { return info_.eos; }
  int32_t pad_id() const { return info_.pad; }
  int32_t unk_id() const { return info_.unk; }
  const std::vector<int32_t>& end_of_generation_ids() const { return info_.end_of_generation; }
  bool is_end_of_generation(int32_t id) const;
  // Whether the model expects a BOS before its text.
  bool adds_bos() const { return info_.adds_bos; }
  const std::string& chat_template() const { return info_.chat_template; }
  // Bytes that the vocabulary cannot express: encode() drops them, as Hugging Face does, or writes
  // the unknown token where there is one.
  virtual std::string missing_bytes() const { return {}; }

  // Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json and what else the kind
  // needs (tokenizer.model, chat_template.jinja) into a directory that exists.
  void save(const std::filesystem::path& directory) const;

 protected:
  Tokenizer(TokenizerInfo info, const std::string& file);

  const TokenizerInfo& info() const { return info_; }

  // What encoding knows of a piece of text between added tokens.
  struct Piece {
    bool first;          // it starts the whole text
    bool parse_special;  // of EncodeOptions
  };
  // Appends the ids of a text that holds no added tokens but `normalized` ones.
  virtual void encode_plain(std::string_view text, Piece piece,
                            std::vector<int32_t>& ids) const = 0;
  // How many spaces decoding drops, at most, from the token that starts a text (`first`), or that
  // stands behind an added token: encoding put them there.
  virtual size_t spaces_to_drop([[maybe_unused]] bool first) const { return 0; }
  // The files that save() writes for a tokenizer that did not come from a directory.
  virtual std::map<std::string, std::string> make_files() const = 0;

 private:
  friend class StreamDecoder;
  void set_end_of_generation(std::vector<int32_t> ids);
  // What stands before a piece of text.
  enum class Before { kNothing, kAdded, kText };
  // Appends a token's text without the spaces that encoding put there; `before` is updated.
  void append_token(int32_t id, bool skip_special, Before& before, std::string& text) const;

  TokenizerInfo info_;
  std::vector<bool> is_added_;  // by id
  AddedTokenMatcher matcher_;
};

// Emits text as ids come. What comes out is always whole valid UTF-8 characters: bytes of a
// character that may still be completed wait; bytes that cannot be part of one become U+FFFD.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, DecodeOptions options = {})
      : tokenizer_(&tokenizer), options_(options), before_(first()) {}

  std::string push(int32_t id);
  // What still waits, as U+FFFD; the decoder may be used again as if new.
  std::string finish();

 private:
  Tokenizer::Before first() const {
    return options_.continuation ? Tokenizer::Before::kText : Tokenizer::Before::kNothing;
  }
  std::string take_characters();

  const Tokenizer* tokenizer_;
  DecodeOptions options_;
  Tokenizer::Before before_;
  std::string pending_;
};

}  // namespace longgen::tokenizer
