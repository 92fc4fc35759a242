#include "longgen/train/trainer.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "longgen/base/error.h"
#include "longgen/base/interrupt.h"
#include "longgen/base/system.h"

namespace longgen::train {
namespace {

constexpr int64_t kFirstBucket = 256;

model::PackedSequence view(const data::Sequence& sequence) {
  return {sequence.ids, sequence.labels, sequence.documents};
}

// Losses by position in the document: [0, 256), then doubling.
class PositionBuckets {
 public:
  void add(const data::Sequence& sequence, std::span<const float> losses) {
    const DocumentRange whole{0, static_cast<int64_t>(sequence.ids.size())};
    std::span<const DocumentRange> documents = sequence.documents;
    if (documents.empty()) documents = {&whole, 1};
    for (const DocumentRange& document : documents) {
      for (int64_t i = 0; i < document.row_count; ++i) {
        const int64_t row = document.row_begin + i;
        if (sequence.labels[row] >= 0) add(i, losses[row]);
      }
    }
  }

  std::vector<EvalRecord::Bucket> take() {
    for (EvalRecord::Bucket& bucket : buckets_) {
      if (bucket.targets > 0) bucket.loss /= static_cast<double>(bucket.targets);
    }
    return std::move(buckets_);
  }

 private:
  void add(int64_t position, double loss) {
    const auto index =
        static_cast<size_t>(std::bit_width(static_cast<uint64_t>(position / kFirstBucket)));
    while (buckets_.size() <= index) {
      const int64_t begin = buckets_.empty() ? 0 : buckets_.back().end;
      buckets_.push_back({begin, std::max(2 * begin, kFirstBucket), 0, 0});
    }
    ++buckets_[index].targets;
    buckets_[index].loss += loss;
  }

  std::vector<EvalRecord::Bucket> buckets_;
};

}  // namespace

Trainer::Trainer(const model::ModelConfig& config, Backend& backend, DType activation,
                 const TrainerOptions& options, MemoryResource& memory,
                 MemoryResource* offload_memory)
    : config_(config),
      options_(options),
      optimizer_(config, activation, backend, options.optimizer, memory),
      pass_(config, optimizer_.weights(), backend, options.length, options.pass, memory,
            offload_memory),
      batch_(static_cast<size_t>(options.sequences_per_step)) {}

int64_t Trainer::bytes() const { return optimizer_.bytes() + pass_.arena().high_water_bytes(); }

std::vector<model::MemoryItem> Trainer::memory_items() const {
  std::vector<model::MemoryItem> items = optimizer_.memory_items();
  const auto activations = pass_.memory_items();
  items.insert(items.end(), activations.begin(), activations.end());
  return items;
}

StepRecord Trainer::step(int64_t step, data::Packer& packer, data::DataPosition& position,
                         const Stop& stop) {
  const double start = monotonic_seconds();
  data::DataPosition next = position;
  StepRecord record{.step = step, .lr = options_.schedule.at(step)};
  for (data::Sequence& sequence : batch_) {
    packer.read(next, sequence);
    record.tokens += static_cast<int64_t>(sequence.ids.size());
    record.targets += sequence.targets;
    const auto flops =
        model::count_flops(config_, static_cast<int64_t>(sequence.ids.size()), sequence.documents);
    record.flops += flops.train;
    record.dense_flops += flops.train_dense;
  }
  optimizer_.zero_gradients();
  const double scale = 1 / static_cast<double>(record.targets);
  double sum = 0;
  for (const data::Sequence& sequence : batch_) {
    if (stop && stop()) throw Interrupted();
    sum += pass_.forward_backward(view(sequence), scale, optimizer_.gradients()).loss;
  }
  record.loss = sum * scale;
  check_finite(record.loss, step);
  record.gradient_norm = optimizer_.step(record.lr, step + 1);
  position = next;
  record.seconds = monotonic_seconds() - start;
  return record;
}

void Trainer::check_finite(double loss, int64_t step) const {
  if (!std::isfinite(loss)) {
    fail("the loss of step {} is not finite; lower train.lr, or look for damaged weights", step);
  }
}

EvalRecord Trainer::evaluate(data::Packer& packer, int64_t max_tokens, const Stop& stop) {
  EvalRecord record;
  PositionBuckets buckets;
  data::DataPosition position;
  data::Sequence sequence;
  std::vector<float> losses;
  for (int64_t rows = 0; rows < max_tokens && position.epoch == 0;) {
    if (stop && stop()) throw Interrupted();
    packer.read(position, sequence);
    losses.assign(sequence.ids.size(), 0);
    const model::LossSum sum = pass_.evaluate(view(sequence), losses);
    record.loss += sum.loss;
    record.targets += sum.count;
    buckets.add(sequence, losses);
    rows += static_cast<int64_t>(sequence.ids.size());
  }
  record.loss /= static_cast<double>(record.targets);
  record.by_position = buckets.take();
  return record;
}

}  // namespace longgen::train
