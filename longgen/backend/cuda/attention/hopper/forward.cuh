// Attention forward for one H100/H200: a persistent thread block a multiprocessor, in it one
// producer warp and kGroups consumer warpgroups.
//
// The producer takes work items, walks the key blocks that the item's queries see, and fills rings
// of stages with pairs of them (any two blocks: 128 keys a step), each with a word that says what
// every warpgroup does with the pair. Consumers never look at the pattern. A warpgroup runs one
// unbroken chain of steps across items: the product of queries and the next keys is issued before
// that of the present probabilities and values, and the softmax of the former runs under the
// latter. One warpgroup's softmax runs under another's products: three take turns at issuing, two
// find that rhythm by themselves.
#pragma once

#include "longgen/backend/cuda/attention/hopper/forward_producer.cuh"
#include "longgen/backend/cuda/attention/hopper/softmax.cuh"

namespace longgen::cuda::hopper {

// A consumer warpgroup.
template <typename C>
struct Consumer {
  static constexpr int D = C::D;
  static constexpr int kFirstTurn = 1;  // named barriers: turns of the warpgroups, then their own
  static constexpr int kFirstOwn = kFirstTurn + C::kGroups;

  const HopperForwardArgs& args;
  ForwardShared<C>& shared;
  const int group = warpgroup_index() - 1;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = warp_index() % 4;
  RingPlace<C::kStages> place;  // of the step that is fetched next
  RingPlace<2> slot;            // of the item being worked on
  static constexpr int kNotYet = INT_MIN;
  int peeked = kNotYet;  // the word of the stage at `place`
  int releasing = -1;    // slot whose output is on its way out of shared memory

  struct Work {
    float scores[kKeys / 2], out[D / 2], shrink[2];
    uint32_t p[kKeys / 4];
    RowState state;
    bool raised;  // some row's maximum: `out` is to be multiplied by `shrink`
  };

  __device__ void begin_turn() {
    if constexpr (C::kTakesTurns) named_sync(kFirstTurn + group, 2 * kWarpgroup);
  }
  __device__ void end_turn() {
    if constexpr (C::kTakesTurns) {
      named_arrive(kFirstTurn + (group + 1) % C::kGroups, 2 * kWarpgroup);
    }
  }
  __device__ void release(Barrier& empty) {
    if (lane == 0) empty.arrive();
  }

  // If the stage at `place` is full: its word, else kNotYet. Saves time when fetch() comes.
  __device__ void peek() {
    peeked = uniform(shared.k_full[place.stage].is_done(place.parity) ? shared.steps[place.stage]
                                                                      : kNotYet);
  }
  // The bits of the next step that concerns this warpgroup, or kEnd.
  __device__ int fetch() {
    for (;;) {
      int word = peeked;
      peeked = kNotYet;
      if (word == kNotYet) {
        // The next stage may be waiting for the slot that this warpgroup has not given back.
        if (releasing >= 0 && !shared.k_full[place.stage].is_done(place.parity)) release_slot();
        shared.k_full[place.stage].wait(place.parity);
        word = uniform(shared.steps[place.stage]);
      }
      if (word == kEnd) return kEnd;
      const int bits = word >> (8 * group) & 0xff;
      if ((bits & kSeesBoth) != 0) return bits;
      release_slot();  // the values may be waiting for it
      shared.v_full[place.stage].wait(place.parity);
      release(shared.k_empty[place.stage]);
      release(shared.v_empty[place.stage]);
      begin_turn();
      end_turn();
      place.advance();
    }
  }

  __device__ void issue_scores(Work& w) {
    const ByRows<C::kRows> q(shared.q[slot.stage] + group * kBlock * kPanelColumns);
    const ByRows<kKeys> keys(shared.keys[place.stage]);
    multiply<kKeys, D / 16>(w.scores, q, keys, false);
    commit_products();
  }
  __device__ void issue_values(Work& w, int stage, bool add) {
    const ByColumns<kKeys> values(shared.values[stage]);
    multiply<D, kKeys / 16>(w.out, w.p, values, add);
    commit_products();
  }
  // Masks, and finds the maxima or that they stay.
  __device__ void begin_softmax(Work& w, int bits) {
    if ((bits & (kSeesBoth | kHasDiagonal)) != kSeesBoth) mask_scores(w.scores, bits);
    w.raised = !C::kVotes || exceed(w.scores, w.state);
    if (w.raised) raise_tops(w.scores, w.state, w.shrink, args.call.scale * kLog2E);
  }
  __device__ void end_softmax(Work& w) {
    exponentials(w.scores, w.state, args.call.scale * kLog2E);
    if constexpr (C::kVotes) {
      // A sum is never negative. But a wait that follows a branch which depends on all exponentials
      // cannot be moved to before them, where the compiler would put it.
      hold(w.scores);
      if (__any_sync(0xffffffffu, w.state.sum[0] + w.state.sum[1] < 0)) __nanosleep(0);
    }
  }
  __device__ void shrink_out(Work& w) {
    if constexpr (!C::kVotes) {
      w.raised = __any_sync(0xffffffffu, w.shrink[0] != 1 || w.shrink[1] != 1);
    }
    if (!w.raised) return;
#pragma unroll
    for (int i = 0; i < D / 2; ++i) w.out[i] *= w.shrink[i / 2 % 2];
  }

  __device__ void release_slot() {
    if (releasing < 0) return;
    if (lane == 0) {
      wait_stores_read<0>();
      shared.q_empty[releasing].arrive();
    }
    releasing = -1;
  }

  __device__ void end_values(Work& w, int stage) {
    wait_products<0>();
    hold(w.out);
    hold(w.p);
    release(shared.v_empty[stage]);
    release_slot();
  }

  // Writes a finished tile through the shared memory of its queries.
  __device__ void store_tile(float (&out)[D / 2], const RowState& state, int at);
  __device__ void store_rows(const ItemInfo& info, const uint32_t (&packed)[D / 4]);
  __device__ void begin(Work& w, int bits);
  __device__ void step(Work& w, const RingPlace<C::kStages>& now, bool now_begins, int next_bits);
  __device__ void finish(Work& w, const RingPlace<C::kStages>& now, bool now_begins);
  __device__ void run();
};

template <typename C>
__device__ void Consumer<C>::store_rows(const ItemInfo& info, const uint32_t (&packed)[D / 4]) {
  auto* out = static_cast<Bf16*>(args.call.out) + info.head * args.call.out_head;
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
    const int row = group * kBlock + warp * 16 + lane / 4 + 8 * lower;
    if (row < info.valid_begin || row >= info.valid_end) continue;
    Bf16* to = out + (info.first_row + row) * args.call.out_row + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      *reinterpret_cast<uint32_t*>(to + n * 8) = packed[n * 2 + lower];
    }
  }
}

template <typename C>
__device__ void Consumer<C>::store_tile(float (&out)[D / 2], const RowState& state, int at) {
  const ItemInfo info = shared.items[at];
  const int warp_row = group * kBlock + warp * 16;
  float inverse[2];
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
    float sum = state.sum[lower];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    inverse[lower] = __fdividef(1, sum);
    const int row = warp_row + lane / 4 + 8 * lower;
    if (args.call.lse != nullptr && lane % 4 == 0 && row >= info.valid_begin &&
        row < info.valid_end) {
      args.call.lse[info.head * args.call.lse_head + info.first_row + row] =
          state.top[lower] * args.call.scale + __logf(sum);
    }
  }
  uint32_t packed[D / 4];  // [n][lower]: two columns of a group of 8
#pragma unroll
  for (int i = 0; i < D / 4; ++i) {
    packed[i] = pack_bf16(out[2 * i] * inverse[i % 2], out[2 * i + 1] * inverse[i % 2]);
  }
  // All warps of the group have read their queries before any writes there.
  named_sync(kFirstOwn + group, kWarpgroup);
  if (warp_row < info.valid_begin || warp_row + 16 > info.valid_end) {
    store_rows(info, packed);
    if (lane == 0) shared.q_empty[at].arrive();
    return;
  }
  Bf16* staged = shared.q[at] + warp_row * kPanelColumns;
#pragma unroll
  for (int n = 0; n < D / 8; n += 2) {  // 16 x 16: rows 0-7 and 8-15 of n, then of n + 1
    const int row = lane % 16, chunk = (n + lane / 16) % 8;
    const Bf16* to =
        staged + n / 8 * C::kRows * kPanelColumns + row * kPanelColumns + ((chunk ^ (row % 8)) * 8);
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(to)),
                 "r"(packed[n * 2]), "r"(packed[n * 2 + 1]), "r"(packed[n * 2 + 2]),
                 "r"(packed[n * 2 + 3])
                 : "memory");
  }
  fence_async_proxy();
  __syncwarp();
  if (lane == 0) {
#pragma unroll
    for (int p = 0; p < C::kPanels; ++p) {
      store_box(&args.out, staged + p * C::kRows * kPanelColumns, p * kPanelColumns,
                static_cast<int>(info.first_row) + warp_row, info.head);
    }
    commit_stores();
  }
  releasing = at;
}

// The first step of all.
template <typename C>
__device__ __forceinline__ void Consumer<C>::begin(Work& w, int bits) {
  begin_turn();
  fence_products();
  issue_scores(w);
  end_turn();
  wait_products<0>();
  hold(w.scores);
  release(shared.k_empty[place.stage]);
  begin_softmax(w, bits);
  end_softmax(w);
  pack_left(w.p, w.scores);
}

// Values of the step at `now`, whose probabilities are in w.p, and scores and softmax of the next,
// whose keys are at `place`.
template <typename C>
__device__ __forceinline__ void Consumer<C>::step(Work& w, const RingPlace<C::kStages>& now,
                                                  bool now_begins, int next_bits) {
  const int old_slot = slot.stage, next_stage = place.stage;
  const bool next_begins = (next_bits & kBeginsTile) != 0;
  if (next_begins) {
    slot.advance();
    shared.q_full[slot.stage].wait(slot.parity);
  }
  begin_turn();
  hold(w.p);
  fence_products();
  issue_scores(w);
  shared.v_full[now.stage].wait(now.parity);
  fence_products();
  issue_values(w, now.stage, !now_begins);
  end_turn();
  place.advance();
  wait_products<1>();
  hold(w.scores);
  release(shared.k_empty[next_stage]);
  const RowState finished = w.state;
  if (next_begins) w.state = no_scores_yet();
  begin_softmax(w, next_bits);
  peek();
  end_softmax(w);
  end_values(w, now.stage);
  if (next_begins) {
    store_tile(w.out, finished, old_slot);
  } else {
    shrink_out(w);
  }
  pack_left(w.p, w.scores);
}

// Values of the last step of all.
template <typename C>
__device__ __forceinline__ void Consumer<C>::finish(Work& w, const RingPlace<C::kStages>& now,
                                                    bool now_begins) {
  begin_turn();
  shared.v_full[now.stage].wait(now.parity);
  hold(w.p);
  fence_products();
  issue_values(w, now.stage, !now_begins);
  if (group + 1 < C::kGroups) end_turn();
  wait_products<0>();
  hold(w.out);
  release_slot();
  store_tile(w.out, w.state, slot.stage);
  if (lane == 0) wait_stores_read<0>();
}

template <typename C>
__device__ void Consumer<C>::run() {
  Work w;
  w.state = no_scores_yet();
  int bits = fetch();
  if (bits == kEnd) return;
  if (C::kTakesTurns && group == C::kGroups - 1) named_arrive(kFirstTurn, 2 * kWarpgroup);
  shared.q_full[slot.stage].wait(slot.parity);
  begin(w, bits);
  bool begins = true;
  RingPlace<C::kStages> now = place;
  place.advance();
  for (;;) {
    bits = fetch();
    if (bits == kEnd) break;
    const RingPlace<C::kStages> next = place;
    step(w, now, begins, bits);
    begins = (bits & kBeginsTile) != 0;
    now = next;
  }
  finish(w, now, begins);
}

template <typename C>
__global__ void __launch_bounds__(C::kThreads, 1)
    attention_forward(const __grid_constant__ HopperForwardArgs args) {
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<ForwardShared<C>*>(shared_bytes);
  if (threadIdx.x == 0) {
    if (shared_address(&shared) % 1024 != 0) __trap();  // what swizzles count on
    for (int i = 0; i < 2; ++i) {
      shared.q_full[i].init(1);
      shared.q_empty[i].init(4 * C::kGroups);
    }
    for (int i = 0; i < C::kStages; ++i) {
      shared.k_full[i].init(1);
      shared.v_full[i].init(1);
      shared.k_empty[i].init(4 * C::kGroups);
      shared.v_empty[i].init(4 * C::kGroups);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (warpgroup_index() == 0) {
    shrink_registers<C::kProducerRegisters>();
    if (warp_index() == 0 && elect_one()) {
      Producer<C> producer{args, shared};
      producer.run();
    }
  } else {
    grow_registers<C::kConsumerRegisters>();
    Consumer<C> consumer{args, shared};
    consumer.run();
  }
}

template <typename C>
void launch_forward_kernel(const HopperForwardArgs& args, cudaStream_t stream) {
  constexpr int kBytes = sizeof(ForwardShared<C>);
  static_assert(kBytes <= 227 * 1024);
  const int items = args.call.tile_count * args.call.group * args.call.kv_heads;
  cudaFuncSetAttribute(attention_forward<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  attention_forward<C><<<min(items, args.processors), C::kThreads, kBytes, stream>>>(args);
}

}  // namespace longgen::cuda::hopper
