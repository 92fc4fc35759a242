// Argument checks of attention, shared by the backends: throw Error naming backend and operand,
// what it is and what it should be.
#pragma once

#include <initializer_list>
#include <string>

#include "longgen/backend/backend.h"

namespace longgen {

class AttentionChecks {
 public:
  AttentionChecks(std::string backend, Device device)
      : backend_(std::move(backend)), device_(device) {}

  // What every workspace size rests on: whole groups of query heads, channels in sixteens.
  void shape(const AttentionShape& shape) const;
  void forward(const AttentionForward& args, int64_t workspace_bytes) const;
  void backward(const AttentionBackward& args, int64_t workspace_bytes) const;
  // The blocks that are written have pages.
  void kv_write(const KvView& kv, DType kv_dtype, int64_t block_size, int64_t first_position,
                const Tensor& k, const Tensor& v) const;

 private:
  void tensor(const char* name, const Tensor& x, DType dtype,
              std::initializer_list<int64_t> shape) const;
  void common(const Tensor& q, int64_t kv_heads, int64_t kv_head_begin,
              const AttentionPattern* pattern, double scale) const;
  void workspace(std::span<std::byte> workspace, int64_t needed) const;
  void sequence(const AttentionSequence& s, int64_t index, int64_t rows) const;

  std::string backend_;
  Device device_;
};

}  // namespace longgen
