// Attention without tensor cores: one warp a row, f32 sums. Also what all kernels share: row sums
// and writing keys to pages.
#include "longgen/backend/cuda/attention/pattern.cuh"
#include "longgen/backend/cuda/dependent_launch.cuh"
#include "longgen/backend/cuda/device_math.cuh"

namespace longgen::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMostEach = 8;  // channels a lane: head sizes up to 256

// A head's channels, spread over the lanes of a warp.
struct Channels {
  float x[kMostEach];

  template <typename T>
  __device__ void load(const T* from, int head_dim) {
    for (int i = 0; i < kMostEach; ++i) {
      const int c = i * 32 + threadIdx.x % 32;
      x[i] = c < head_dim ? to_float(from[c]) : 0;
    }
  }
  template <typename T>
  __device__ void store(T* to, int head_dim, float factor) const {
    for (int i = 0; i < kMostEach; ++i) {
      const int c = i * 32 + threadIdx.x % 32;
      if (c < head_dim) to[c] = from_float<T>(x[i] * factor);
    }
  }
  __device__ float dot(const Channels& other) const {
    float sum = 0;
    for (int i = 0; i < kMostEach; ++i) sum += x[i] * other.x[i];
    return warp_sum(sum);
  }
  __device__ void add(const Channels& other, float factor) {
    for (int i = 0; i < kMostEach; ++i) x[i] += other.x[i] * factor;
  }
  __device__ void scale(float factor) {
    for (float& value : x) value *= factor;
  }
};

// Which packed row of its tile a warp has; false beyond the sequence.
struct PackedRow {
  int query, head;
};
__device__ bool packed_row(const Tile& tile, const SequenceArgs& s, int group, int kv_head, int i,
                           PackedRow* out) {
  const int packed = tile.first + i;
  *out = {packed / group, kv_head * group + packed % group};
  return packed < s.row_count * group;
}

// Calls f(key) for every key that `query` sees.
template <typename F>
__device__ void for_keys(const DevicePattern& pattern, int query, const F& f) {
  const KeyTiles keys(pattern, query, query);
  for (int tile = keys.next(0); tile < keys.end; tile = keys.next(tile + 1)) {
    const int end = min((tile + 1) * kTileRows, query + 1);
    for (int key = tile * kTileRows; key < end; ++key) {
      if (pattern.sees(query, key)) f(key);
    }
  }
}

template <typename T>
__global__ void forward_kernel(ForwardArgs a) {
  const Tile tile = a.tiles[blockIdx.x];
  const int kv_head = blockIdx.y;
  const SequenceArgs s = a.sequences[tile.sequence];
  const DevicePattern pattern(a.pattern, kv_head);
  for (int i = threadIdx.x / 32; i < kTileRows; i += kWarps) {
    PackedRow r;
    if (!packed_row(tile, s, a.group, kv_head, i, &r)) return;
    const int64_t row = s.row_begin + r.query;
    Channels q, out{}, other;
    q.load(static_cast<const T*>(a.q) + row * a.q_row + r.head * a.q_head, a.head_dim);
    float top = -INFINITY, sum = 0;
    for_keys(pattern, static_cast<int>(s.first_position) + r.query, [&](int key) {
      const int64_t at = kv_offset(s, pattern.shift, kv_head, key);
      other.load(static_cast<const T*>(s.keys) + at, a.head_dim);
      const float score = q.dot(other) * a.scale;
      if (score > top) {
        const float shrink = expf(top - score);
        sum *= shrink;
        out.scale(shrink);
        top = score;
      }
      const float weight = expf(score - top);
      sum += weight;
      other.load(static_cast<const T*>(s.values) + at, a.head_dim);
      out.add(other, weight);
    });
    out.store(static_cast<T*>(a.out) + row * a.out_row + r.head * a.out_head, a.head_dim, 1 / sum);
    if (a.lse != nullptr && threadIdx.x % 32 == 0) {
      a.lse[r.head * a.lse_head + row] = top + logf(sum);
    }
  }
}

template <typename T>
__global__ void query_gradient_kernel(BackwardArgs a) {
  const Tile tile = a.query_tiles[blockIdx.x];
  const int kv_head = blockIdx.y;
  const SequenceArgs s = a.documents[tile.sequence];
  const DevicePattern pattern(a.pattern, kv_head);
  for (int i = threadIdx.x / 32; i < kTileRows; i += kWarps) {
    PackedRow r;
    if (!packed_row(tile, s, a.group, kv_head, i, &r)) return;
    const int64_t row = s.row_begin + r.query;
    Channels q, dout, dq{}, k, v;
    q.load(static_cast<const T*>(a.q) + row * a.q_row + r.head * a.q_head, a.head_dim);
    dout.load(static_cast<const T*>(a.dout) + row * a.dout_row + r.head * a.dout_head, a.head_dim);
    const float lse = a.lse[r.head * a.lse_head + row];
    const float delta = a.delta[r.head * a.delta_head + row];
    for_keys(pattern, r.query, [&](int key) {
      const int64_t key_row = s.row_begin + key;
      k.load(static_cast<const T*>(a.k) + key_row * a.k_row + kv_head * a.k_head, a.head_dim);
      v.load(static_cast<const T*>(a.v) + key_row * a.v_row + kv_head * a.v_head, a.head_dim);
      const float weight = expf(q.dot(k) * a.scale - lse);
      dq.add(k, weight * (dout.dot(v) - delta));
    });
    dq.store(static_cast<T*>(a.dq) + row * a.dq_row + r.head * a.dq_head, a.head_dim, a.scale);
  }
}

template <typename T>
__global__ void key_gradient_kernel(BackwardArgs a) {
  const Tile tile = a.key_tiles[blockIdx.x];
  const int kv_head = blockIdx.y;
  const SequenceArgs s = a.documents[tile.sequence];
  const DevicePattern pattern(a.pattern, kv_head);
  for (int i = threadIdx.x / 32; i < kTileRows; i += kWarps) {
    const int key = tile.first + i;
    if (key >= s.row_count) return;
    const int64_t key_row = s.row_begin + key;
    Channels k, v, dk{}, dv{}, q, dout;
    k.load(static_cast<const T*>(a.k) + key_row * a.k_row + kv_head * a.k_head, a.head_dim);
    v.load(static_cast<const T*>(a.v) + key_row * a.v_row + kv_head * a.v_head, a.head_dim);
    const int end = queries_end(pattern, key, key, static_cast<int>(s.row_count));
    for (int head = kv_head * a.group; head < (kv_head + 1) * a.group; ++head) {
      for (int query = key; query < end; ++query) {
        if (!pattern.sees(query, key)) continue;
        const int64_t row = s.row_begin + query;
        q.load(static_cast<const T*>(a.q) + row * a.q_row + head * a.q_head, a.head_dim);
        dout.load(static_cast<const T*>(a.dout) + row * a.dout_row + head * a.dout_head,
                  a.head_dim);
        const float weight = expf(q.dot(k) * a.scale - a.lse[head * a.lse_head + row]);
        dv.add(dout, weight);
        dk.add(q, weight * (dout.dot(v) - a.delta[head * a.delta_head + row]));
      }
    }
    dk.store(static_cast<T*>(a.dk) + key_row * a.dk_row + kv_head * a.dk_head, a.head_dim, a.scale);
    dv.store(static_cast<T*>(a.dv) + key_row * a.dv_row + kv_head * a.dv_head, a.head_dim, 1);
  }
}

template <typename T>
__global__ void delta_kernel(BackwardArgs a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int64_t heads = static_cast<int64_t>(a.kv_heads) * a.group;
  if (i >= a.rows * heads) return;
  const int64_t row = i / heads, head = i % heads;
  Channels out, dout;
  out.load(static_cast<const T*>(a.out) + row * a.out_row + head * a.out_head, a.head_dim);
  dout.load(static_cast<const T*>(a.dout) + row * a.dout_row + head * a.dout_head, a.head_dim);
  const float sum = out.dot(dout);
  if (threadIdx.x % 32 == 0) a.delta[head * a.delta_head + row] = sum;
}

// A thread: sizeof(V) bytes of a key and of its value.
template <typename T, typename V>
__global__ void kv_write_kernel(KvWriteArgs a) {
  let_next_start();
  wait_for_inputs();
  constexpr int kEach = sizeof(V) / sizeof(T);
  const SequenceArgs& s = a.sequences[blockIdx.y];
  const unsigned item = blockIdx.x * blockDim.x + threadIdx.x, vectors = a.head_dim / kEach;
  const int c = static_cast<int>(item % vectors) * kEach;
  const int head = static_cast<int>(item / vectors % a.kv_heads);
  const int64_t i = item / vectors / a.kv_heads, row = s.row_begin + i;
  if (i >= s.row_count) return;
  const int64_t at = kv_offset(s, a.block_shift, head, static_cast<int>(s.first_position + i));
  if (at < 0) return;
  const auto copy = [&](const void* to, const void* from, int64_t row_stride, int64_t head_stride) {
    auto* target = static_cast<T*>(const_cast<void*>(to)) + at + c;
    const T* source = static_cast<const T*>(from) + row * row_stride + head * head_stride + c;
    *reinterpret_cast<V*>(target) = *reinterpret_cast<const V*>(source);
  };
  copy(s.keys, a.k, a.k_row, a.k_head);
  copy(s.values, a.v, a.v_row, a.v_head);
}

template <typename T, typename V>
void launch_kv_write(const KvWriteArgs& a, cudaStream_t stream) {
  constexpr int kThreads = 256;
  const int64_t items = a.most_rows * a.kv_heads * (a.head_dim * sizeof(T) / sizeof(V));
  const dim3 grid(blocks_for(items, kThreads, INT32_MAX), static_cast<unsigned>(a.sequence_count));
  launch_dependent(kv_write_kernel<T, V>, grid, kThreads, stream, a);
}

template <typename F>
void by_type(bool bf16, const F& f) {
  by_activation_type(bf16 ? Element::kBF16 : Element::kF32, f);
}

}  // namespace

void attention_forward_simple(const ForwardArgs& a, bool bf16, cudaStream_t stream) {
  by_type(bf16, [&](auto zero) {
    forward_kernel<decltype(zero)><<<dim3(a.tile_count, a.kv_heads), kWarps * 32, 0, stream>>>(a);
  });
}

void attention_backward_simple(const BackwardArgs& a, bool bf16, cudaStream_t stream) {
  by_type(bf16, [&](auto zero) {
    using T = decltype(zero);
    query_gradient_kernel<T><<<dim3(a.query_tile_count, a.kv_heads), kWarps * 32, 0, stream>>>(a);
    key_gradient_kernel<T><<<dim3(a.key_tile_count, a.kv_heads), kWarps * 32, 0, stream>>>(a);
  });
}

void attention_delta(const BackwardArgs& a, bool bf16, cudaStream_t stream) {
  if (a.rows == 0) return;
  const int64_t items = a.rows * a.kv_heads * a.group;
  by_type(bf16, [&](auto zero) {
    delta_kernel<decltype(zero)>
        <<<blocks_for(items, kWarps, INT32_MAX), kWarps * 32, 0, stream>>>(a);
  });
}

void kv_write(const KvWriteArgs& a, bool bf16, cudaStream_t stream) {
  by_type(bf16, [&](auto zero) {
    using T = decltype(zero);
    a.in_sixteens ? launch_kv_write<T, uint4>(a, stream) : launch_kv_write<T, T>(a, stream);
  });
}

}  // namespace longgen::cuda
