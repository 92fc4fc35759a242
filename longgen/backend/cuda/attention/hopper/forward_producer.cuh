// The forward kernel's shared memory, and the thread that fills it: see forward.cuh.
#pragma once

#include "longgen/backend/cuda/attention/hopper/key_walk.cuh"
#include "longgen/backend/cuda/attention/hopper/tma.cuh"
#include "longgen/backend/cuda/attention/hopper/wgmma.cuh"

namespace longgen::cuda::hopper {

using Bf16 = __nv_bfloat16;

inline constexpr int kKeys = 2 * kBlock;  // of a step

template <int D_, int kGroups_, int kStages_>
struct ForwardConfig {
  static constexpr int D = D_, kGroups = kGroups_, kStages = kStages_;
  static constexpr int kConsumerRegisters = kGroups == 2 ? 240 : 160;
  static constexpr int kProducerRegisters = kGroups == 2 ? 24 : 32;
  // What pays with two warpgroups and does not with three (docs/kernels.md): looking for scores
  // that exceed a limit instead of for maxima, and no turns.
  static constexpr bool kVotes = kGroups == 2, kTakesTurns = kGroups > 2;
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

// One thread.
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

}  // namespace longgen::cuda::hopper
