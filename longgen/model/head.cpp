#include "longgen/model/head.h"

#include <algorithm>

#include "longgen/model/buffers.h"

namespace longgen::model {

HeadBuffers HeadBuffers::allocate(Arena& arena, const ModelConfig& c, DType dtype, int64_t chunk,
                                  bool for_backward, bool apart) {
  const DType acc = accumulation_dtype(dtype);
  HeadBuffers h;
  h.normed = arena.allocate("chunk of head and loss: normed", dtype, {chunk, c.hidden_size});
  h.logits = arena.allocate("chunk of head and loss: logits", acc, {chunk, c.vocab_size});
  if (!for_backward) return h;
  const int64_t padding = apart && c.vocab_size * dtype_size(dtype) % 2048 == 0 ? 64 : 0;
  h.dlogits =
      arena.allocate("chunk of head and loss: dlogits", dtype, {chunk, c.vocab_size + padding})
          .slice(1, 0, c.vocab_size);
  h.dnormed = arena.allocate("chunk of head and loss: dnormed", dtype, {chunk, c.hidden_size});
  h.norm_stats = arena.allocate("chunk of head and loss: norm stats", acc, {chunk, 2});
  return h;
}

Head::Head(const ModelConfig& config, const ParameterSet& weights)
    : norm_(weights, "model.norm", config.norm, config.norm_eps),
      output_(weights, config.tie_word_embeddings ? "model.embed_tokens" : "lm_head") {}

Tensor Head::logits(Backend& backend, const HeadBuffers& buffers, const Tensor& x) const {
  const int64_t n = x.dim(0);
  const Tensor normed = first(buffers.normed, n), logits = first(buffers.logits, n);
  norm_.forward(backend, normed, first(buffers.norm_stats, n), x);
  output_.forward(backend, logits, normed);
  return logits;
}

void Head::loss(Backend& backend, const HeadBuffers& buffers, const Tensor& losses, const Tensor& x,
                const Tensor& labels) const {
  const int64_t chunk = buffers.normed.dim(0);
  for (int64_t begin = 0; begin < x.dim(0); begin += chunk) {
    const int64_t count = std::min(chunk, x.dim(0) - begin);
    const Tensor z = logits(backend, buffers, rows(x, begin, count));
    backend.softmax_cross_entropy(rows(losses, begin, count), Tensor(), z,
                                  rows(labels, begin, count), 1);
  }
}

void Head::loss_backward(Backend& backend, const ParameterSet& gradients,
                         const HeadBuffers& buffers, const Tensor& losses, const Tensor& dx,
                         const Tensor& x, const Tensor& labels, double scale) const {
  const int64_t chunk = buffers.normed.dim(0);
  for (int64_t begin = 0; begin < x.dim(0); begin += chunk) {
    const int64_t count = std::min(chunk, x.dim(0) - begin);
    const Tensor part = rows(x, begin, count), z = logits(backend, buffers, part);
    const Tensor dz = first(buffers.dlogits, count), dnormed = first(buffers.dnormed, count);
    backend.softmax_cross_entropy(rows(losses, begin, count), dz, z, rows(labels, begin, count),
                                  scale);
    output_.backward(backend, gradients, dnormed, dz, first(buffers.normed, count));
    norm_.backward(backend, gradients, rows(dx, begin, count), /*accumulate_dx=*/false, dnormed,
                   part, first(buffers.norm_stats, count));
  }
}

}  // namespace longgen::model
