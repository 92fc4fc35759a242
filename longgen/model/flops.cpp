#include "longgen/model/decoder.h"

namespace longgen::model {
namespace {

// Multiply-accumulates of the products of one token: every matrix but the embeddings, and the head
// (perhaps the token embedding itself) once.
double products_per_token(const ModelConfig& config) {
  double sum = 0;
  for (const ParamSpec& spec : param_specs(config)) {
    const bool embeds = spec.name.starts_with("model.embed_");
    if (spec.shape.size() == 2 && !embeds) sum += static_cast<double>(spec.numel());
  }
  if (config.tie_word_embeddings) {
    sum += static_cast<double>(config.vocab_size) * static_cast<double>(config.hidden_size);
  }
  return sum;
}

// FLOPs of attention over all layers and heads of one document: q.k and p.v of every pair.
double attention_flops(const ModelConfig& config, int64_t tokens, bool dense) {
  const AttentionPattern full = AttentionPattern::full(config.patterns[0].block_size);
  double pairs = 0;
  for (const AttentionPattern& pattern : config.patterns) {
    for (int64_t head = 0; head < config.num_kv_heads; ++head) {
      pairs += static_cast<double>((dense ? full : pattern).pairs(tokens, head));
    }
  }
  return 4 * pairs * static_cast<double>(config.group_size() * config.head_dim);
}

}  // namespace

FlopCount count_flops(const ModelConfig& config, int64_t tokens,
                      std::span<const DocumentRange> documents) {
  const DocumentRange whole{0, tokens};
  if (documents.empty()) documents = {&whole, 1};
  double attention = 0, dense = 0;
  for (const DocumentRange& document : documents) {
    attention += attention_flops(config, document.row_count, false);
    dense += attention_flops(config, document.row_count, true);
  }
  const double products = 2 * static_cast<double>(tokens) * products_per_token(config);
  return {.forward = products + attention,
          .forward_dense = products + dense,
          .train = 3 * products + 3.5 * attention,
          .train_dense = 3 * products + 3.5 * dense};
}

}  // namespace longgen::model
