// Token embedding, and learned positions where the model has them.
#pragma once

#include "longgen/backend/backend.h"
#include "longgen/model/config.h"
#include "longgen/model/parameter.h"

namespace longgen::model {

// The rows of one call. `learned` = position + offset; undefined without learned positions.
struct EmbeddingIds {
  Tensor tokens, learned;  // i32 [T]
};

class Embedding {
 public:
  explicit Embedding(const ParameterSet& weights)
      : tokens_(Parameter::find(weights, "model.embed_tokens.weight")),
        positions_(Parameter::find(weights, "model.embed_positions.weight")),
        token_table_(weights.view(static_cast<size_t>(tokens_.index))) {
    if (has_positions()) position_table_ = weights.view(static_cast<size_t>(positions_.index));
  }

  bool has_positions() const { return positions_.value.defined(); }

  void forward(Backend& backend, const Tensor& out, const EmbeddingIds& ids) const {
    backend.embedding_forward(out, token_table_, ids.tokens, /*accumulate=*/false);
    if (has_positions()) {
      backend.embedding_forward(out, position_table_, ids.learned, /*accumulate=*/true);
    }
  }

  void backward(Backend& backend, const ParameterSet& gradients, const Tensor& dout,
                const EmbeddingIds& ids) const {
    const Tensor tokens = tokens_.gradient(gradients), positions = positions_.gradient(gradients);
    if (tokens.defined()) backend.embedding_backward(tokens, dout, ids.tokens);
    if (positions.defined()) backend.embedding_backward(positions, dout, ids.learned);
  }

 private:
  Parameter tokens_, positions_;
  WeightView token_table_, position_table_;
};

}  // namespace longgen::model
