// The one place where a layer is written down. The same code runs in training (forward and
// hand-written backward over packed sequences), in serving (incremental forward over a cache) and
// under the estimator (backend/meta), on every backend.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "longgen/backend/backend.h"
#include "longgen/model/config.h"
#include "longgen/model/weights.h"
#include "longgen/tensor/arena.h"

namespace longgen::model {

// One packed training sequence.
struct PackedSequence {
  std::span<const int32_t> ids;     // [T]
  std::span<const int32_t> labels;  // [T], the target of each row, already shifted; -1: none
  // Documents that do not see each other (isolated), ascending, each starting at a multiple of the
  // block size; positions restart in each. Rows of no document are padding: their ids are ignored,
  // their labels must be -1. Empty: the whole sequence is one document (concat).
  std::span<const DocumentRange> documents;
};

struct LossSum {
  double loss = 0;    // sum over valid labels, natural log
  int64_t count = 0;  // valid labels
};

// Whose attention output and log-sum-exp are kept for backward, so that attention itself does not
// run again there.
enum class KeptOutputs : uint8_t { kNone, kFullLayers, kAllLayers };
// What waits in host memory between forward and backward, copied beside the computation.
enum class Offload : uint8_t { kNone, kOutputs, kInputsAndOutputs };

struct TrainOptions {
  bool recompute = true;     // keep layer inputs only and run each layer again in backward
  int64_t mlp_chunk = 2048;  // tokens a chunk of the MLP
  int64_t loss_chunk = 512;  // tokens a chunk of head and loss: logits never exist whole
  // With recompute: false keeps what attention needs (per token and layer its queries, keys,
  // values, output and the sum after it) and runs the MLP alone again.
  bool recompute_attention = true;
  // With recompute and recompute_attention, which offloading needs, too.
  KeptOutputs keep_outputs = KeptOutputs::kNone;
  int64_t keep_sparse = 0;  // with kFullLayers: those of the first so many sparse layers, too
  Offload offload = Offload::kNone;

  bool recomputes_attention() const { return recompute && recompute_attention; }
};

// Bytes of one purpose.
struct MemoryItem {
  std::string name;
  int64_t bytes = 0;
  bool offloaded = false;  // in host memory beside the device's
};

// Forward and backward over one packed sequence of up to max_tokens. Owns its activations; they
// have the weights' dtype, while logits, losses and weight gradients have its accumulation dtype.
// Bad ids, labels, documents or lengths are an Error that names the row. Recomputation changes no
// bit.
class TrainingPass {
 public:
  // Everything is allocated here; `memory` may be a NoMemory to learn the size. What is offloaded
  // lies in `offload_memory` (null: in `memory`, too).
  // rope positions reach max_tokens. Weights are only referred to.
  TrainingPass(const ModelConfig& config, const ParameterSet& weights, Backend& backend,
               int64_t max_tokens, const TrainOptions& options, MemoryResource& memory,
               MemoryResource* offload_memory = nullptr);
  ~TrainingPass();

  // Loss only. token_losses (may be empty, else [T]) receives each row's loss.
  LossSum evaluate(const PackedSequence& sequence, std::span<float> token_losses = {});

  // gradients (acc dtype) += d(sum of losses * loss_scale) / d(parameter).
  LossSum forward_backward(const PackedSequence& sequence, double loss_scale,
                           const ParameterSet& gradients);

  // Logits of every row into acc [T, V] host memory: for tests and small models.
  void logits(const PackedSequence& sequence, const Tensor& out);

  const Arena& arena() const;
  // The arena's bytes by purpose, then what is offloaded.
  std::vector<MemoryItem> memory_items() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// What the incremental forward needs of a cache; infer::KvCache is one.
class KvStore {
 public:
  virtual ~KvStore() = default;

  struct Part {  // KV heads [head_begin, head_begin + head_count) of one layer
    int64_t head_begin = 0, head_count = 0;
    KvView kv;  // length covers the rows being run
  };
  // Parts that together cover all KV heads of `layer` for sequence `sequence`, in ascending order
  // and cut alike for all sequences. Pages for positions up to the end of the running chunk exist.
  // Read before the next call.
  virtual std::span<const Part> parts(int64_t layer, int64_t sequence) = 0;
  virtual DType dtype() const = 0;
};

// Consecutive rows of one sequence.
struct SequenceChunk {
  int64_t sequence = 0;  // the KvStore's handle
  int64_t first_position = 0;
  std::span<const int32_t> ids;
  // A promise, which only a call with one chunk makes use of: no logits of positions before this
  // one are asked for, in this call or a later one, and no later call runs positions before it but
  // those of this prompt. See needed_rows().
  int64_t asks_from = 0;
};

// Incremental forward: prefill chunks and decode steps, several sequences in one call.
class IncrementalPass {
 public:
  // max_rows: the most rows of one call; max_logit_rows: the most rows whose logits are asked for;
  // max_position: RoPE table length.
  IncrementalPass(const ModelConfig& config, const ParameterSet& weights, Backend& backend,
                  int64_t max_rows, int64_t max_logit_rows, int64_t max_position,
                  MemoryResource& memory);
  ~IncrementalPass();

  // Runs the chunks through all layers, writing their keys and values to the store. Returns logits
  // acc [logit_rows.size(), V] of the given rows (indices into the concatenated chunks, ascending),
  // valid until the next call. Where these are last rows of chunks, or none, the last layer forms
  // only keys and values of the others.
  Tensor forward(std::span<const SequenceChunk> chunks, KvStore& store,
                 std::span<const int64_t> logit_rows);

  const Arena& arena() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// FLOPs of one packed sequence of `tokens` rows: forward, by exact unmasked pairs within the
// documents (empty: one), and with dense causal attention within them in every layer. Backward
// counts twice the products and 2.5 times the attention.
struct FlopCount {
  double forward = 0, forward_dense = 0;
  double train = 0, train_dense = 0;  // forward + backward, without recomputation
};
FlopCount count_flops(const ModelConfig& config, int64_t tokens,
                      std::span<const DocumentRange> documents = {});
// Of a prompt in an IncrementalPass whose last row alone is asked for: head, and of every layer
// what needed_rows() leaves.
double count_prompt_flops(const ModelConfig& config, int64_t tokens);

}  // namespace longgen::model
