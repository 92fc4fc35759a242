// Attention forward for one H100/H200: a persistent thread block a multiprocessor, in it one
// producer warp and kGroups consumer warpgroups.
//
// The producer takes work items, walks the key blocks that the item's queries see, and fills rings
// of stages with pairs of them (any two blocks: 128 keys a step), each with a word that says what
// every warpgroup does with the pair. Consumers never look at the pattern. A warpgroup runs one
// unbroken chain of steps across items: the product of queries and the next keys is issued before
// that of the present probabilities and values, and the softmax of the former runs under the
// latter. Warpgroups take turns at issuing, so that one's softmax runs under another's products.
#pragma once

#include <climits>

#include "longgen/backend/cuda/attention/hopper/softmax.cuh"
#include "longgen/backend/cuda/attention/hopper/tma.cuh"

namespace longgen::cuda::hopper {

using Bf16 = __nv_bfloat16;

inline constexpr int kKeys = 2 * kBlock;  // of a step

// kTurns: warpgroups take turns at issuing products. kLazy: a row's maximum stays until a score
// exceeds it by this many powers of two, and with it the scale of the sums. kEarly: the values of a
// step are waited for before the exponentials of the next rather than after.
template <int D_, int kGroups_, int kStages_, bool kTurns_ = true, int kLazy_ = 0,
          bool kEarly_ = false, int kPolynomial_ = 0>
struct ForwardConfig {
  static constexpr int D = D_, kGroups = kGroups_, kStages = kStages_;
  static constexpr bool kTurns = kTurns_, kEarly = kEarly_;
  static constexpr int kLazy = kLazy_, kPolynomial = kPolynomial_;
  static constexpr int kConsumerRegisters = kGroups == 2 ? 240 : 160;
  static constexpr int kProducerRegisters = kGroups == 2 ? 24 : 32;
  static constexpr int kRows = kGroups * kBlock;
  static constexpr int kThreads = (kGroups + 1) * kWarpgroup;
  static constexpr int kPanels = D / kPanelColumns;
  static constexpr int kQElements = kRows * D, kStageElements = kKeys * D;
  // A warpgroup may pass over kGroups - 1 steps in a row while it holds a stage.
  static_assert(kGroups == 2 || kGroups == 3);
  static_assert(kStages >= kGroups);
};

struct ItemInfo {
  int64_t first_row;           // of q and out, for the tile's first position; may be negative
  int valid_begin, valid_end;  // rows of the tile that are stored
  int head;
};

template <typename C>
struct ForwardShared {
  alignas(1024) Bf16 q[2][C::kQElements];
  alignas(1024) Bf16 keys[C::kStages][C::kStageElements];
  alignas(1024) Bf16 values[C::kStages][C::kStageElements];
  Barrier q_full[2], q_empty[2];
  Barrier k_full[C::kStages], k_empty[C::kStages], v_full[C::kStages], v_empty[C::kStages];
  int steps[C::kStages];
  ItemInfo items[2];
};

// --- producer: one thread ---

template <typename C>
struct Producer {
  const HopperForwardArgs& args;
  ForwardShared<C>& shared;
  RingPlace<C::kStages> stage;
  RingPlace<2> slot;
  // Of the present sequence:
  int sequence = -1, last_block = 0;
  bool paged = false;
  const int32_t* table = nullptr;
  const KvMaps* maps = nullptr;

  static constexpr int kStepBytes = C::kStageElements * 2, kHalf = kBlock * kPanelColumns;

  struct KeyPlace {
    int token, page;
  };
  // Values to be loaded after the keys of the next step.
  struct {
    RingPlace<C::kStages> stage;
    const CUtensorMap *first_map = nullptr, *second_map;
    KeyPlace first, second;
    int kv_head;
  } waiting;

  __device__ KeyPlace place_of(int block) const {
    if (!paged) return {block * kBlock, 0};
    return {0, table != nullptr ? table[block] : block};
  }
  __device__ const CUtensorMap* map_of_values(int block) const {
    return block == last_block ? &maps->last_values : &maps->values;
  }
  __device__ void load_block(Bf16* to, const CUtensorMap* map, Barrier* barrier, int head,
                             const KeyPlace& place) {
#pragma unroll
    for (int p = 0; p < C::kPanels; ++p) {
      load_box(to + p * kKeys * kPanelColumns, map, barrier, p * kPanelColumns, place.token, head,
               place.page);
    }
  }

  // Keys of a step, then the values of the step before: keys are needed a step ahead, and their
  // stage gets free sooner.
  __device__ void load_step(int word, int first, int second, int kv_head) {
    const int at = stage.stage;
    shared.k_empty[at].wait(stage.parity ^ 1);
    shared.steps[at] = word;
    shared.k_full[at].arrive_expecting(kStepBytes);
    load_block(shared.keys[at], &maps->keys, &shared.k_full[at], kv_head, place_of(first));
    load_block(shared.keys[at] + kHalf, &maps->keys, &shared.k_full[at], kv_head, place_of(second));
    load_values();
    waiting = {stage,           map_of_values(first), map_of_values(second),
               place_of(first), place_of(second),     kv_head};
    stage.advance();
  }
  __device__ void load_values() {
    if (waiting.first_map == nullptr) return;
    const int at = waiting.stage.stage;
    shared.v_empty[at].wait(waiting.stage.parity ^ 1);
    shared.v_full[at].arrive_expecting(kStepBytes);
    load_block(shared.values[at], waiting.first_map, &shared.v_full[at], waiting.kv_head,
               waiting.first);
    load_block(shared.values[at] + kHalf, waiting.second_map, &shared.v_full[at], waiting.kv_head,
               waiting.second);
    waiting.first_map = nullptr;
  }

  __device__ void load_queries(const ItemInfo& info) {
    const int at = slot.stage;
    shared.q_empty[at].wait(slot.parity ^ 1);
    shared.items[at] = info;
    shared.q_full[at].arrive_expecting(C::kQElements * 2);
#pragma unroll
    for (int p = 0; p < C::kPanels; ++p) {
      load_box(shared.q[at] + p * C::kRows * kPanelColumns, &args.q, &shared.q_full[at],
               p * kPanelColumns, static_cast<int>(info.first_row), info.head, kEvictFirst);
    }
    slot.advance();
  }

  __device__ void begin_sequence(int index) {
    const SequenceArgs& s = args.call.sequences[index];
    sequence = index;
    last_block = static_cast<int>((s.length - 1) / kBlock);
    table = s.block_table;
    maps = args.kv + index;
    paged = maps->paged != 0;
    acquire_map(&maps->keys);
    acquire_map(&maps->values);
    acquire_map(&maps->last_values);
  }

  __device__ void run_item(int item) {
    const ForwardArgs& call = args.call;
    const int each = call.tile_count * call.group;
    const int kv_head = item / each, rest = item % each;
    const Tile tile = call.tiles[rest / call.group];
    const SequenceArgs& s = call.sequences[tile.sequence];
    if (tile.sequence != sequence) begin_sequence(tile.sequence);
    const int end = static_cast<int>(s.first_position + s.row_count);
    ItemInfo info;
    info.first_row = s.row_begin + tile.first - s.first_position;
    info.valid_begin = max(0, static_cast<int>(s.first_position) - tile.first);
    info.valid_end = min(C::kRows, end - tile.first);
    info.head = kv_head * call.group + rest % call.group;
    load_queries(info);

    const BlockPattern pattern(call.pattern, kv_head);
    const int query_block = tile.first / kBlock;
    const int last_query_block = min(query_block + C::kGroups - 1, (end - 1) / kBlock);
    KeyWalk walk(pattern, query_block, last_query_block);
    int begun = 0;
    for (int first = walk.next(); first >= 0; first = walk.next()) {
      const int second = walk.next();
      int word = 0;
#pragma unroll
      for (int w = 0; w < C::kGroups; ++w) {
        int bits = step_bits(pattern, walk, query_block + w, first, second);
        // A warpgroup without queries of its own keeps the others' time.
        if (query_block + w > last_query_block) bits = second >= 0 ? kSeesBoth : kSeesFirst;
        if ((bits & kSeesBoth) != 0 && (begun >> w & 1) == 0) {
          begun |= 1 << w;
          bits |= kBeginsTile;
        }
        word |= bits << (8 * w);
      }
      // A block without a partner comes twice; the copy is masked, but must hold numbers.
      load_step(word, first, second >= 0 ? second : first, kv_head);
    }
  }

  __device__ void run() {
    const int items = args.call.tile_count * args.call.group * args.call.kv_heads;
    prefetch_map(&args.q);
    int item = atomicAdd(args.next_item, 1);
    while (item < items) {
      const int following = atomicAdd(args.next_item, 1);
      run_item(item);
      item = following;
    }
    load_values();
    shared.k_empty[stage.stage].wait(stage.parity ^ 1);
    shared.steps[stage.stage] = kEnd;
    shared.k_full[stage.stage].arrive();
  }
};

// --- consumer: a warpgroup ---

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
  };

  __device__ void begin_turn() {
    if (C::kTurns) named_sync(kFirstTurn + group, 2 * kWarpgroup);
  }
  __device__ void end_turn() {
    if (C::kTurns) named_arrive(kFirstTurn + (group + 1) % C::kGroups, 2 * kWarpgroup);
  }
  __device__ void release(Barrier& empty) {
    if (lane == 0) empty.arrive();
  }

  // If the stage at `place` is full: its word, else kNotYet. Saves time when fetch() comes.
  __device__ void peek() {
    peeked = shared.k_full[place.stage].is_done(place.parity) ? shared.steps[place.stage] : kNotYet;
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
        word = shared.steps[place.stage];
      }
      word = uniform(word);
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
  // Masks, and finds the maxima.
  __device__ void begin_softmax(Work& w, int bits) {
    if ((bits & (kSeesBoth | kHasDiagonal)) != kSeesBoth) mask_scores(w.scores, bits);
    raise_tops<C::kLazy>(w.scores, w.state, w.shrink, args.call.scale * kLog2E);
  }
  __device__ void end_softmax(Work& w) {
    exponentials<C::kPolynomial>(w.scores, w.state, args.call.scale * kLog2E);
  }
  __device__ void shrink_out(Work& w) {
    if (C::kLazy > 0 && !__any_sync(0xffffffffu, w.shrink[0] != 1 || w.shrink[1] != 1)) return;
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
  if (next_begins) w.state = {{-INFINITY, -INFINITY}, {0, 0}};
  begin_softmax(w, next_bits);
  if (C::kEarly) {
    end_values(w, now.stage);
    if (next_begins) {
      store_tile(w.out, finished, old_slot);
    } else {
      shrink_out(w);
    }
  }
  peek();
  end_softmax(w);
  if (!C::kEarly) {
    end_values(w, now.stage);
    if (next_begins) {
      store_tile(w.out, finished, old_slot);
    } else {
      shrink_out(w);
    }
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
  w.state = {{-INFINITY, -INFINITY}, {0, 0}};
  int bits = fetch();
  if (bits == kEnd) return;
  if (C::kTurns && group == C::kGroups - 1) named_arrive(kFirstTurn, 2 * kWarpgroup);
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
