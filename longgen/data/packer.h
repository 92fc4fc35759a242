// Documents packed into sequences of a fixed length.
//
//   concat:   the documents of an epoch, each after a BOS, are one stream that is cut every
//   `length`
//             tokens; attention crosses documents.
//   isolated: each document, BOS first, starts at a multiple of the block size and sees nothing but
//             itself; longer ones are cut into pieces, each of which starts with BOS. Rows between
//             documents are padding.
//
// Labels are shifted here, once: labels[t] is the id that follows ids[t], -1 where there is none.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/data/corpus.h"

namespace longgen::data {

enum class Packing : uint8_t { kConcat, kIsolated };

Packing parse_packing(std::string_view name);  // throws UsageError

// The next sequence to read. All there is to remember of a place in the data.
struct DataPosition {
  int64_t epoch = 0;
  int64_t sequence = 0;

  bool operator==(const DataPosition&) const = default;
};

struct Sequence {
  std::vector<int32_t> ids;              // [T], T <= length
  std::vector<int32_t> labels;           // [T]
  std::vector<DocumentRange> documents;  // empty in concat
  int64_t targets = 0;                   // labels that are not -1; at least 1
};

struct PackOptions {
  Packing packing = Packing::kConcat;
  int64_t length = 0;       // rows of a sequence, at least 2
  int64_t block_size = 64;  // documents start at its multiples (isolated)
  uint64_t seed = 0;
  bool shuffle = true;   // documents anew every epoch; false: as they come
  bool weighted = true;  // honour the sources' weights; false: every document once
};

class Packer {
 public:
  // The corpus is referred to. Throws Error when there is nothing to pack.
  Packer(const Corpus& corpus, std::vector<Document> documents, const PackOptions& options);

  // The sequences of an epoch; in weighted or isolated packing their number may differ a little
  // from epoch to epoch.
  int64_t sequences(int64_t epoch);

  // The sequence at `position`, which then moves to the next one. Depends on nothing but the
  // corpus, the options and `position`.
  void read(DataPosition& position, Sequence& out);

 private:
  struct Piece {  // tokens [begin, begin + count) of a document, BOS before them
    int64_t document, begin, count;
  };
  struct Placement {
    int64_t piece, row;
  };

  void plan(int64_t epoch);
  std::vector<int64_t> draw(int64_t epoch) const;
  void plan_concat(std::span<const int64_t> pieces);
  void plan_isolated(std::span<const int64_t> pieces);
  void read_concat(int64_t sequence, Sequence& out) const;
  void read_isolated(int64_t sequence, Sequence& out) const;
  // Tokens [begin, begin + out.size()) of a piece, where token 0 is BOS.
  void read_piece(const Piece& piece, int64_t begin, std::span<int32_t> out) const;

  const Corpus& corpus_;
  std::vector<Document> documents_;
  PackOptions options_;
  std::vector<Piece> pieces_;           // by source
  std::vector<int64_t> source_pieces_;  // first piece of each source, then their number
  std::vector<int64_t> source_tokens_;  // BOS included

  int64_t planned_epoch_ = -1, planned_sequences_ = 0;
  std::vector<int64_t> order_, starts_;       // concat: pieces and their place in the stream
  std::vector<std::vector<Placement>> bins_;  // isolated: one a sequence
};

}  // namespace longgen::data
