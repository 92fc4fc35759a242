// What the warps of the backward kernel share: its tiles, shared memory, units of work, turns.
#pragma once

#include "longgen/backend/cuda/attention/hopper/backward_args.h"
#include "longgen/backend/cuda/attention/hopper/tma.cuh"
#include "longgen/backend/cuda/attention/hopper/wgmma.cuh"

namespace longgen::cuda::hopper {

inline constexpr int kBackwardStages = 2;  // of dO and dS
inline constexpr int kQueryStages = 3;     // of Q, which is held longer and needed sooner
inline constexpr int kFinishParts = 4;     // in which finished dq comes to shared memory
inline constexpr int kBackwardThreads = 3 * kWarpgroup;
inline constexpr float kLog2E = 1.4426950408889634f;

template <int D>
struct BackwardTile {
  static constexpr int kQueries = query_rows(D);
  static constexpr int kBlocks = kQueries / kBackwardBlock;  // of queries
  static constexpr int kKeys = 2 * kBackwardBlock;
  static constexpr int kPanels = D / kPanelColumns;
  static constexpr int kScores = kQueries / 2;  // accumulator registers of S or dP
};

// An item and its head; in shared memory, where it costs no registers.
struct BackwardUnit {
  BackwardItem item;
  int kv_head;
  int steps;  // tiles of all query heads of the group; 0: no more items

  __device__ void find(const BackwardKernelArgs& a, int unit) {
    const HeadGroup* g = a.groups;
    while (unit - g->unit_begin >= g->item_count * g->head_count) ++g;
    const int local = unit - g->unit_begin;
    const int together = g->item_count * a.heads_together;
    const int set = local / together, rest = local % together;
    const int heads = min(a.heads_together, g->head_count - set * a.heads_together);
    item = a.items[g->item_begin + rest / heads];
    kv_head = g->head_begin + set * a.heads_together + rest % heads;
    steps = (item.end_tile - item.first_tile) * a.group;
  }
  __device__ int first_block() const { return item.row_begin / kBackwardBlock; }
  __device__ int blocks() const { return (item.length + kBackwardBlock - 1) / kBackwardBlock; }
};

template <int D>
struct alignas(1024) BackwardShared {
  using T = BackwardTile<D>;
  __nv_bfloat16 k[T::kKeys * D], v[T::kKeys * D];
  __nv_bfloat16 q[kQueryStages][T::kQueries * D], dout[kBackwardStages][T::kQueries * D];
  __nv_bfloat16 ds[2][T::kKeys * T::kQueries];  // queries as rows, a panel from each warpgroup
  float dq[2][64 * 64];
  float finish[64 * 64 / kFinishParts];
  __nv_bfloat16 finished[64 * 64];
  float lse[kQueryStages][T::kQueries], delta[kBackwardStages][T::kQueries];
  Barrier k_full, v_full, keys_empty;
  Barrier q_full[kQueryStages], q_empty[kQueryStages];
  Barrier dout_full[kBackwardStages], dout_empty[kBackwardStages];
  Barrier ds_full[2], ds_empty[2], dq_empty[2];
  Barrier finish_full;
  Barrier unit_full[2], unit_empty[2];
  BackwardUnit unit[2];
};

// kDqFull: + warpgroup + 2 * stage of dS.
enum BackwardNamedBarrier { kDqFull = 1, kWarpgroupDone = 5, kBothDone = 7 };

// Walks an item's steps without divisions.
struct BackwardStep {
  int tile, head;
  __device__ BackwardStep(const BackwardKernelArgs& a, const BackwardUnit& u)
      : tile(u.item.first_tile), head(u.kv_head * a.group) {}
  __device__ void advance(const BackwardUnit& u) {
    if (++tile == u.item.end_tile) {
      tile = u.item.first_tile;
      ++head;
    }
  }
};

// The next unit, as the loading warp hands it to the others.
struct UnitReader {
  RingPlace<2> place;
  template <typename Shared>
  __device__ const BackwardUnit& next(Shared& s) {
    s.unit_full[place.stage].wait(place.parity);
    return s.unit[place.stage];
  }
  template <typename Shared>
  __device__ void release(Shared& s) {  // one thread of each reader
    s.unit_empty[place.stage].arrive();
  }
};

__device__ inline int read_turn(const int* turn) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(turn) : "memory");
  return value;
}
__device__ inline void add_turn(int* turn, int count) {
  asm volatile("red.release.gpu.global.add.s32 [%0], %1;" ::"l"(turn), "r"(count) : "memory");
}

}  // namespace longgen::cuda::hopper
