#include "longgen/data/packer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "longgen/base/checked.h"
#include "longgen/base/error.h"

namespace longgen::data {

Packing parse_packing(std::string_view name) {
  if (name == "concat") return Packing::kConcat;
  if (name == "isolated") return Packing::kIsolated;
  fail_usage("data.packing: '{}' is neither concat nor isolated", name);
}

Packer::Packer(const Corpus& corpus, std::vector<Document> documents, const PackOptions& options)
    : corpus_(corpus), documents_(std::move(documents)), options_(options) {
  if (options_.length < 2) fail_usage("a sequence length of {} holds no target", options_.length);
  for (size_t s = 0; s < corpus_.sources().size(); ++s) {
    source_pieces_.push_back(static_cast<int64_t>(pieces_.size()));
    source_tokens_.push_back(0);
    int64_t longest = corpus_.sources()[s].options().max_document_tokens;
    if (longest == 0) longest = std::numeric_limits<int64_t>::max();
    if (options_.packing == Packing::kIsolated) longest = std::min(longest, options_.length);
    for (size_t d = 0; d < documents_.size(); ++d) {
      if (documents_[d].source != static_cast<int32_t>(s)) continue;
      for (int64_t begin = 0; begin < documents_[d].tokens; begin += longest - 1) {
        const int64_t count = std::min(longest - 1, documents_[d].tokens - begin);
        pieces_.push_back({static_cast<int64_t>(d), begin, count});
        source_tokens_.back() += count + 1;
        if (count == documents_[d].tokens - begin) break;
      }
    }
  }
  source_pieces_.push_back(static_cast<int64_t>(pieces_.size()));
  if (pieces_.empty()) fail("the data holds no tokens to train on");
}

int64_t Packer::sequences(int64_t epoch) {
  plan(epoch);
  return planned_sequences_;
}

void Packer::read(DataPosition& position, Sequence& out) {
  plan(position.epoch);
  require(position.sequence >= 0 && position.sequence < planned_sequences_,
          "the data position (epoch {}, sequence {}) is beyond the epoch's {} sequences",
          position.epoch, position.sequence, planned_sequences_);
  if (options_.packing == Packing::kConcat) {
    read_concat(position.sequence, out);
  } else {
    read_isolated(position.sequence, out);
  }
  out.targets =
      std::count_if(out.labels.begin(), out.labels.end(), [](int32_t l) { return l >= 0; });
  if (++position.sequence == planned_sequences_) position = {position.epoch + 1, 0};
}

void Packer::plan(int64_t epoch) {
  if (epoch == planned_epoch_) return;
  const std::vector<int64_t> pieces = draw(epoch);
  if (options_.packing == Packing::kConcat) {
    plan_concat(pieces);
  } else {
    plan_isolated(pieces);
  }
  planned_epoch_ = epoch;
}

// The pieces of an epoch in order. With weights, a source is repeated so that the epoch holds as
// many tokens as the data: whole rounds, then the first of a shuffle of its own.
std::vector<int64_t> Packer::draw(int64_t epoch) const {
  const uint64_t streams = corpus_.sources().size() + 1;  // an epoch's: one a source, one for all
  const uint64_t first_stream = static_cast<uint64_t>(epoch) * streams;
  const auto& sources = corpus_.sources();
  double weight_sum = 0;
  for (size_t s = 0; s < sources.size(); ++s) {
    if (source_tokens_[s] > 0) weight_sum += sources[s].options().weight;
  }
  const double total = static_cast<double>(
      std::accumulate(source_tokens_.begin(), source_tokens_.end(), int64_t{0}));
  std::vector<int64_t> drawn;
  for (size_t s = 0; s < sources.size(); ++s) {
    std::vector<int64_t> mine(source_pieces_[s + 1] - source_pieces_[s]);
    std::iota(mine.begin(), mine.end(), source_pieces_[s]);
    if (mine.empty()) continue;
    double rounds = 1;
    if (options_.weighted && weight_sum > 0) {
      rounds =
          sources[s].options().weight / weight_sum * total / static_cast<double>(source_tokens_[s]);
    }
    const int64_t want =
        std::max<int64_t>(1, std::llround(rounds * static_cast<double>(mine.size())));
    const int64_t count = static_cast<int64_t>(mine.size());
    for (int64_t round = 0; round < want / count; ++round) {
      drawn.insert(drawn.end(), mine.begin(), mine.end());
    }
    if (want % count != 0) {
      shuffle(mine, options_.seed, first_stream + 1 + s);
      drawn.insert(drawn.end(), mine.begin(), mine.begin() + want % count);
    }
  }
  if (options_.shuffle) shuffle(drawn, options_.seed, first_stream);
  return drawn;
}

void Packer::plan_concat(std::span<const int64_t> pieces) {
  order_.assign(pieces.begin(), pieces.end());
  starts_.assign(1, 0);
  for (const int64_t piece : order_) starts_.push_back(starts_.back() + 1 + pieces_[piece].count);
  // The last token of the stream is a target only.
  planned_sequences_ = ceil_div(starts_.back() - 1, options_.length);
}

// Best fit: a piece goes to the open sequence with the least room that suffices, else opens one.
void Packer::plan_isolated(std::span<const int64_t> pieces) {
  bins_.clear();
  std::multimap<int64_t, int64_t> open;  // rows left -> sequence; equal rooms in order of insertion
  const int64_t block = options_.block_size;
  for (const int64_t piece : pieces) {
    const int64_t rows = pieces_[piece].count + 1;
    auto found = open.lower_bound(rows);
    int64_t room = options_.length, bin = static_cast<int64_t>(bins_.size());
    if (found != open.end()) {
      room = found->first;
      bin = found->second;
      open.erase(found);
    } else {
      bins_.emplace_back();
    }
    bins_[bin].push_back({piece, options_.length - room});
    const int64_t left = room - round_up(rows, block);
    if (left >= 2) open.emplace(left, bin);
  }
  planned_sequences_ = static_cast<int64_t>(bins_.size());
}

void Packer::read_piece(const Piece& piece, int64_t begin, std::span<int32_t> out) const {
  if (out.empty()) return;
  if (begin == 0) {
    out[0] = corpus_.bos();
    out = out.subspan(1);
  } else {
    --begin;
  }
  const Document& document = documents_[piece.document];
  corpus_.sources()[document.source].read(document.index, piece.begin + begin, out);
}

void Packer::read_concat(int64_t sequence, Sequence& out) const {
  const int64_t begin = sequence * options_.length;
  const int64_t rows = std::min(options_.length, starts_.back() - 1 - begin);
  std::vector<int32_t> stream(rows + 1);
  auto next = std::upper_bound(starts_.begin(), starts_.end(), begin) - 1;
  for (int64_t done = 0; done <= rows; ++next) {
    const int64_t from = begin + done - *next;
    const int64_t count = std::min(rows + 1 - done, *(next + 1) - *next - from);
    read_piece(pieces_[order_[next - starts_.begin()]], from,
               std::span(stream).subspan(done, count));
    done += count;
  }
  out.ids.assign(stream.begin(), stream.end() - 1);
  out.labels.assign(stream.begin() + 1, stream.end());
  out.documents.clear();
}

void Packer::read_isolated(int64_t sequence, Sequence& out) const {
  const std::vector<Placement>& bin = bins_[sequence];
  const int64_t rows = bin.back().row + pieces_[bin.back().piece].count + 1;
  out.ids.assign(rows, corpus_.bos());
  out.labels.assign(rows, -1);
  out.documents.clear();
  for (const Placement& placed : bin) {
    const Piece& piece = pieces_[placed.piece];
    read_piece(piece, 0, std::span(out.ids).subspan(placed.row, piece.count + 1));
    std::copy_n(out.ids.begin() + placed.row + 1, piece.count, out.labels.begin() + placed.row);
    out.documents.push_back({placed.row, piece.count + 1});
  }
}

}  // namespace longgen::data
