// What a device whose calls are queued offers beside Backend's operations.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "longgen/backend/backend.h"

namespace longgen {

class DeviceQueue {
 public:
  virtual ~DeviceQueue() = default;

  // Queues what `work` calls as one step. `work` runs twice and must make the same calls each time;
  // it reads nothing back, and what it copies from the host is small. Host data (ids, positions,
  // block tables, lengths) travels in one copy. `repeats`: a step like this will come again, with
  // other such data but the same tensors; calls are then kept as a graph, by the tensors, shapes
  // and table capacities that they name, so that a later step like it runs `work` once, without
  // launching, and starts the graph. Keys and values that attention sees in a step are of earlier
  // steps, except those of its queries' own rows.
  virtual void step(bool repeats, const std::function<void()>& work) = 0;
  // Of the last step: seconds from the start of its first launch to the end of its last, by the
  // device's own clock. Waits for it.
  virtual double last_step_seconds() = 0;
  // Steps that were started as a graph.
  virtual int64_t graph_steps() const = 0;

  // Backend::kv_write for all sequences of a call at once: k and v [T, kv_heads, head_dim], rows
  // and first positions as the sequences say.
  virtual void kv_write_all(std::span<const AttentionSequence> sequences, DType kv_dtype,
                            int64_t block_size, const Tensor& k, const Tensor& v) = 0;

  // The same of the calls that `work` makes outside steps; pauses between launches count.
  virtual double seconds(const std::function<void()>& work) = 0;
};

// The backend's queue; null where calls return when they are done.
inline DeviceQueue* device_queue(Backend& backend) { return dynamic_cast<DeviceQueue*>(&backend); }

}  // namespace longgen
