#include "longgen/model/step_inputs.h"

#include "longgen/model/buffers.h"

namespace longgen::model {

StepInputs::StepInputs(const ModelConfig& config, int64_t max_rows, int64_t max_position)
    : config_(config), max_rows_(max_rows), max_position_(max_position) {
  require(max_rows > 0 && max_position > 0, "a pass over {} rows and {} positions", max_rows,
          max_position);
  if (config.position == PositionKind::kLearned) {
    require(max_position <= config.max_position_embeddings,
            "{} positions are asked for, but the model has {} learned ones", max_position,
            config.max_position_embeddings);
    learned_host_.resize(static_cast<size_t>(max_rows));
  }
}

void StepInputs::allocate(Arena& arena) {
  ids_ = arena.allocate("ids and tables: ids", DType::kI32, {max_rows_});
  positions_ = arena.allocate("ids and tables: positions", DType::kI32, {max_rows_});
  if (config_.position == PositionKind::kLearned) {
    learned_ = arena.allocate("ids and tables: learned positions", DType::kI32, {max_rows_});
  } else {
    table_ = arena.allocate("ids and tables: rope table", DType::kF32,
                            {max_position_, config_.rotary_dim});
  }
}

void StepInputs::fill_table(Backend& backend) const {
  if (!table_.defined() || table_.raw() == nullptr) return;
  const auto table = rope_table(config_.rope, config_.rotary_dim, max_position_);
  upload(backend, table_.reshape({table_.numel()}), std::span<const float>(table));
}

void StepInputs::set(Backend& backend, std::span<const int32_t> ids,
                     std::span<const int32_t> positions) {
  rows_ = static_cast<int64_t>(ids.size());
  require(rows_ > 0 && rows_ <= max_rows_, "{} rows are given, but the pass was made for 1 to {}",
          rows_, max_rows_);
  for (size_t i = 0; i < ids.size(); ++i) {
    require(ids[i] >= 0 && ids[i] < config_.vocab_size,
            "token id {} at row {} is outside the vocabulary of {}", ids[i], i, config_.vocab_size);
    require(positions[i] >= 0 && positions[i] < max_position_,
            "position {} at row {}, but the pass was made for {} positions", positions[i], i,
            max_position_);
  }
  upload(backend, first(ids_, rows_), ids);
  upload(backend, first(positions_, rows_), positions);
  if (!learned_.defined()) return;
  for (size_t i = 0; i < ids.size(); ++i) {
    learned_host_[i] = positions[i] + static_cast<int32_t>(config_.learned_position_offset);
  }
  upload(backend, first(learned_, rows_),
         std::span<const int32_t>(learned_host_).first(ids.size()));
}

StepContext StepInputs::context(Backend& backend) const {
  return {backend, first(positions_, rows_), table_};
}

EmbeddingIds StepInputs::embedding_ids() const {
  return {first(ids_, rows_), first(learned_, rows_)};
}

}  // namespace longgen::model
