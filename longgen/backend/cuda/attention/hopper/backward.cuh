// Attention backward on wgmma and TMA: one kernel, five products a tile, repeatable.
//
// A block of three warpgroups takes items (backward_work.h): two key blocks of 64, one for each of
// two consumer warpgroups, and a range of query tiles, for all query heads of the group. dK and dV
// stay in registers. S^T = K Q^T and dP^T = V dO^T are computed with keys as rows, so that
// P^T and dS^T are left operands from registers for dV += P^T dO and dK += dS^T Q; dS also goes
// through shared memory for dQ = dS K, which needs all 128 keys. dQ leaves through shared memory,
// added to f32 sums in L2 by bulk copies in a fixed order (query_turns).
//
// In a step of query tile j the tensor cores get, in this order: S(j), dQ(j - 1) under the softmax
// of S(j), dP(j), dV under the computation of dS, dK.
//
// The third warpgroup: warp 0 takes items and loads, warps 1 and 2 send dQ away, warp 3 turns dQ's
// sums into bf16 once all items have added to them, while they are in L2.
#pragma once

#include "longgen/backend/cuda/attention/hopper/backward_args.h"
#include "longgen/backend/cuda/attention/hopper/tma.cuh"
#include "longgen/backend/cuda/attention/hopper/wgmma.cuh"

namespace longgen::cuda::hopper {

inline constexpr int kBackwardStages = 2;
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
  __nv_bfloat16 q[kBackwardStages][T::kQueries * D], dout[kBackwardStages][T::kQueries * D];
  __nv_bfloat16 ds[2][T::kKeys * T::kQueries];
  float dq[2][64 * 64];
  float finish[64 * 64];
  __nv_bfloat16 finished[64 * 64];
  float lse[kBackwardStages][T::kQueries], delta[kBackwardStages][T::kQueries];
  Barrier k_full, v_full, keys_empty;
  Barrier q_full[kBackwardStages], q_empty[kBackwardStages];
  Barrier dout_full[kBackwardStages], dout_empty[kBackwardStages];
  Barrier ds_full[2], dq_empty[2];
  Barrier finish_full;
  Barrier unit_full[2], unit_empty[2];
  BackwardUnit unit[2];
};

enum BackwardNamedBarrier { kDqFull = 1, kWarpgroupDone = 3, kBothDone = 5 };

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

template <int D>
__device__ void load_items(const BackwardKernelArgs& a, BackwardShared<D>& s) {
  using T = BackwardTile<D>;
  constexpr int kTileBytes = T::kQueries * D * 2, kStatBytes = T::kQueries * 4;
  RingPlace<2> unit_place;
  RingPlace<kBackwardStages> stage;
  int keys_parity = 1;
  while (true) {
    const int number = atomicAdd(a.next_unit, 1);
    const bool more = number < a.unit_count;
    s.unit_empty[unit_place.stage].wait(unit_place.parity ^ 1);
    BackwardUnit& u = s.unit[unit_place.stage];
    u.steps = 0;
    if (more) u.find(a, number);
    s.unit_full[unit_place.stage].arrive();
    unit_place.advance();
    if (!more) return;

    const CUtensorMap* maps = a.maps + u.item.document * kBackwardMaps;
    for (int m = kMapQ; m <= kMapV; ++m) acquire_map(maps + m);
    s.keys_empty.wait(keys_parity);
    keys_parity ^= 1;
    const auto load_keys = [&](__nv_bfloat16* to, int map, Barrier* full) {
      full->arrive_expecting(T::kKeys * D * 2);
      for (int w = 0; w < 2; ++w) {
        const int row = (u.item.blocks[w] < 0 ? u.blocks() : u.item.blocks[w]) * kBackwardBlock;
        for (int p = 0; p < T::kPanels; ++p) {
          load_box(to + (p * T::kKeys + w * kBackwardBlock) * kPanelColumns, maps + map, full,
                   p * kPanelColumns, u.kv_head, row);
        }
      }
    };
    BackwardStep at(a, u);
    const auto load_queries = [&](__nv_bfloat16* to, int map, float* stat, int which,
                                  Barrier* full) {
      full->arrive_expecting(kTileBytes + kStatBytes);
      for (int b = 0; b < T::kBlocks; ++b) {
        const int block = at.tile * T::kBlocks + b;
        for (int p = 0; p < T::kPanels; ++p) {
          load_box(to + (p * T::kQueries + b * kBackwardBlock) * kPanelColumns, maps + map, full,
                   p * kPanelColumns, at.head, block * kBackwardBlock);
        }
        // Past the document's end: the block of no rows.
        const int from = block < u.blocks() ? u.first_block() + block : a.blocks;
        load_bytes(stat + b * kBackwardBlock,
                   a.stats + ((static_cast<int64_t>(at.head) * (a.blocks + 1) + from) * 2 + which) *
                                 kBackwardBlock,
                   kBackwardBlock * 4, full);
      }
    };
    load_keys(s.k, kMapK, &s.k_full);
    for (int step = 0; step < u.steps; ++step) {
      s.q_empty[stage.stage].wait(stage.parity ^ 1);
      load_queries(s.q[stage.stage], kMapQ, s.lse[stage.stage], 0, &s.q_full[stage.stage]);
      if (step == 0) load_keys(s.v, kMapV, &s.v_full);
      s.dout_empty[stage.stage].wait(stage.parity ^ 1);
      load_queries(s.dout[stage.stage], kMapDout, s.delta[stage.stage], 1,
                   &s.dout_full[stage.stage]);
      stage.advance();
      at.advance(u);
    }
  }
}

__device__ inline int read_turn(const int* turn) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(turn) : "memory");
  return value;
}
__device__ inline void add_turn(int* turn, int count) {
  asm volatile("red.release.gpu.global.add.s32 [%0], %1;" ::"l"(turn), "r"(count) : "memory");
}

// Adds the dQ of warpgroup w to the sums, tile by tile, when it is this item's turn.
template <int D>
__device__ void send_query_gradients(const BackwardKernelArgs& a, BackwardShared<D>& s, int w) {
  using T = BackwardTile<D>;
  constexpr int kBytes = 64 * 64 * 4;
  const int lane = threadIdx.x % 32;
  UnitReader reader;
  int* sent = nullptr;  // the turn to end when the sums sent last have arrived
  const auto end_turn = [&] {
    asm volatile("fence.proxy.async;" ::: "memory");
    add_turn(sent, 1);
    sent = nullptr;
  };
  while (true) {
    const BackwardUnit& u = reader.next(s);
    if (u.steps == 0) return;
    const int local = min(a.local_blocks, 1 << 28);
    BackwardStep at(a, u);
    for (int step = 0; step < u.steps; ++step) {
      // With 64 channels warpgroup w has the second block of queries, which may not exist.
      const int first = at.tile * T::kBlocks, block = first + (D > 64 ? 0 : w);
      const bool exists = block < u.blocks() && a.debug != 2;
      const int64_t place =
          (static_cast<int64_t>(at.head) * a.blocks + u.first_block() + block) * (D / 64) +
          (D > 64 ? w : 0);
      int turn = (first + T::kBlocks - 1) / 2;
      turn = u.item.pair < 0 ? turn - u.item.blocks[0] / 2
                             : turn - max(0, first - local + 1) / 2 + 1 + u.item.pair;
      if (lane == 0 && exists && a.debug == 0 && read_turn(a.query_turns + place) != turn) {
        if (sent != nullptr) {
          wait_stores_done<0>();
          end_turn();
        }
        while (read_turn(a.query_turns + place) != turn) {
        }
      }
      named_sync(kDqFull + w, kWarpgroup + 32);
      if (lane == 0) {
        if (exists) {
          asm volatile("fence.proxy.async;" ::: "memory");
          float* to = a.query_sums + place * (64 * 64);
          if (turn == 0) {
            store_bytes(to, s.dq[w], kBytes);
          } else {
            add_bytes(to, s.dq[w], kBytes);
          }
          commit_stores();
          if (sent != nullptr) {
            wait_stores_done<1>();
            end_turn();
          }
          sent = a.query_turns + place;
          wait_stores_read<0>();
        }
        s.dq_empty[w].arrive();
      }
      __syncwarp();
      at.advance(u);
    }
    if (lane == 0) {
      if (sent != nullptr) {
        wait_stores_done<0>();
        end_turn();
      }
      reader.release(s);
    }
    reader.place.advance();
  }
}

// One block of queries, one head and 64 channels after the other: sums that are complete become dq.
template <int D>
__device__ void finish_query_gradients(const BackwardKernelArgs& a, BackwardShared<D>& s) {
  const int lane = threadIdx.x % 32;
  int parity = 0;
  while (true) {
    const int number = uniform(lane == 0 ? atomicAdd(a.next_unit + 1, 1) : 0);
    const HeadGroup* g = a.groups;
    for (int i = 0; i < a.group_count && number >= a.finish_count * (g->head_begin + g->head_count);
         ++i) {
      ++g;
    }
    if (g == a.groups + a.group_count) break;
    const int local = number - a.finish_count * g->head_begin;
    const int together = a.finish_count * a.heads_together;
    const int set = local / together, rest = local % together;
    const int heads = min(a.heads_together, g->head_count - set * a.heads_together);
    const BackwardFinish f = a.finishes[(g - a.groups) * a.finish_count + rest / heads];
    const int first = (g->head_begin + set * a.heads_together + rest % heads) * a.group;
    const CUtensorMap* map = a.maps + f.document * kBackwardMaps + kMapDq;
    if (lane == 0) acquire_map(map);
    for (int i = 0; i < a.group * (D / 64); ++i) {
      const int head = first + i / (D / 64), panel = i % (D / 64);
      const int64_t place =
          (static_cast<int64_t>(head) * a.blocks + f.row_begin / kBackwardBlock + f.block) *
              (D / 64) +
          panel;
      if (lane == 0) {
        while (read_turn(a.query_turns + place) < f.turns) __nanosleep(200);
        asm volatile("fence.proxy.async;" ::: "memory");
        wait_stores_read<0>();
        s.finish_full.arrive_expecting(sizeof(s.finish));
        load_bytes(s.finish, a.query_sums + place * (64 * 64), sizeof(s.finish), &s.finish_full);
      }
      s.finish_full.wait(parity);
      parity ^= 1;
      // From how wgmma leaves a warpgroup's sums (wgmma.cuh) to the swizzled rows of a box.
      for (int j = 0; j < 32; ++j) {
        const int n = j % 8, row = j / 8 * 16 + lane / 4;
        const float4 x = reinterpret_cast<const float4*>(s.finish)[n * 128 + j / 8 * 32 + lane];
        auto* to = reinterpret_cast<unsigned char*>(s.finished) + row * 128 +
                   ((n ^ (row % 8)) << 4) + lane % 4 * 4;
        *reinterpret_cast<uint32_t*>(to) = pack_bf16(x.x * a.scale, x.y * a.scale);
        *reinterpret_cast<uint32_t*>(to + 8 * 128) = pack_bf16(x.z * a.scale, x.w * a.scale);
      }
      fence_async_proxy();
      __syncwarp();
      if (lane == 0) {
        store_box(map, s.finished, panel * 64, head, f.block * kBackwardBlock);
        commit_stores();
      }
    }
  }
  if (lane == 0) wait_stores_read<0>();
}

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Writes 64 rows (this warpgroup's, from `first_row` on) of packed pairs to a tile of panels of
// kRows rows, under the swizzle.
template <int kRows, int kCount>
__device__ void store_tile(__nv_bfloat16* tile, int first_row, const uint32_t (&packed)[kCount]) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int row = first_row + warp * 16 + lane % 16;
  const uint32_t base = shared_address(tile) + row * 128;
#pragma unroll
  for (int m = 0; m < kCount / 4; ++m) {
    const int chunk = m % 4 * 2 + lane / 16;
    const uint32_t to = base + m / 4 * kRows * 128 + ((chunk ^ (row % 8)) << 4);
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
                 "r"(packed[4 * m]), "r"(packed[4 * m + 1]), "r"(packed[4 * m + 2]),
                 "r"(packed[4 * m + 3])
                 : "memory");
  }
}

// A consumer warpgroup: keys of one block.
template <int D>
class BackwardConsumer {
  using T = BackwardTile<D>;
  using Shared = BackwardShared<D>;

 public:
  __device__ BackwardConsumer(const BackwardKernelArgs& a, Shared& s, int w)
      : a_(a), s_(s), w_(w), thread_(threadIdx.x % kWarpgroup) {}

  __device__ void run() {
    UnitReader reader;
    int keys_parity = 0;
    while (true) {
      const BackwardUnit& u = reader.next(s_);
      const int steps = u.steps;
      if (steps == 0) break;
      if (thread_ == 0) wait_stores_read<0>();  // of write_out
      named_sync(kWarpgroupDone + w_, kWarpgroup);
      s_.k_full.wait(keys_parity);
      float dk[D / 2], dv[D / 2];
#pragma unroll
      for (int i = 0; i < D / 2; ++i) dk[i] = dv[i] = 0;
      int tile = u.item.first_tile;
      s_.v_full.wait(keys_parity);
      keys_parity ^= 1;
      for (int i = 0; i < steps; ++i) {
        step(u, i == 0, tile, dk, dv);
        if (++tile == u.item.end_tile) tile = u.item.first_tile;
      }
      last_query_gradient(dk, dv);
      store_keys(u, dk, dv);
      if (thread_ == 0) reader.release(s_);
      reader.place.advance();
    }
    if (thread_ == 0) wait_stores_read<0>();
  }

 private:
  // In the first step dQ of "the step before" is computed from whatever lies there and dropped: a
  // second copy of this function without it takes registers that ptxas does not find.
  __device__ __forceinline__ void step(const BackwardUnit& u, bool first, int tile,
                                       float (&dk)[D / 2], float (&dv)[D / 2]) {
    const int stage = stage_.stage;
    float scores[T::kScores], dscores[T::kScores], dq[32];
    s_.q_full[stage].wait(stage_.parity);
    fence_products();
    multiply<T::kQueries, D / 16>(scores, own_rows(s_.k), ByRows<T::kQueries>(s_.q[stage]), false);
    commit_products();
    start_query_gradient(dq, first);
    wait_products<1>();  // S, and dK of the step before
    hold(scores);
    if (!first) release(s_.q_empty[stage ^ 1]);
    hide(u, tile, scores);
    probabilities(scores, s_.lse[stage]);
    uint32_t p[T::kScores / 2];
    pack_left(p, scores);
    finish_query_gradient(dq, first);

    s_.dout_full[stage].wait(stage_.parity);
    fence_products();
    multiply<T::kQueries, D / 16>(dscores, own_rows(s_.v), ByRows<T::kQueries>(s_.dout[stage]),
                                  false);
    commit_products();
    hold(p);
    fence_products();
    multiply<D, T::kQueries / 16>(dv, p, ByColumns<T::kQueries>(s_.dout[stage]), true);
    commit_products();
    wait_products<1>();
    hold(dscores);
    score_gradients(p, dscores, s_.delta[stage]);
    uint32_t ds[T::kScores / 2];
    pack_left(ds, dscores);
    store_tile<T::kKeys>(s_.ds[stage], w_ * kBackwardBlock, ds);
    fence_async_proxy();
    release(s_.ds_full[stage]);
    hold(ds);
    fence_products();
    multiply<D, T::kQueries / 16>(dk, ds, ByColumns<T::kQueries>(s_.q[stage]), true);
    commit_products();
    wait_products<1>();  // dV
    release(s_.dout_empty[stage]);
    stage_.advance();
  }

  // Once a warp, when all its threads are here.
  __device__ void release(Barrier& barrier) const {
    __syncwarp();
    if (thread_ % 32 == 0) barrier.arrive();
  }
  __device__ ByRows<T::kKeys> own_rows(const __nv_bfloat16* keys) const {
    return ByRows<T::kKeys>(keys + w_ * kBackwardBlock * kPanelColumns);
  }

  // dQ of the step before: of all 128 keys, and this warpgroup's half of the channels or of the
  // queries.
  __device__ __forceinline__ void start_query_gradient(float (&dq)[32], bool drop) {
    const int before = stage_.stage ^ 1;
    if (!drop) s_.ds_full[before].wait(stage_.stage == 0 ? stage_.parity ^ 1 : stage_.parity);
    constexpr int kPanel = T::kKeys * kPanelColumns;
    const __nv_bfloat16* ds = s_.ds[before] + (D > 64 ? 0 : w_ * kPanel);
    const __nv_bfloat16* k = s_.k + (D > 64 ? w_ * kPanel : 0);
    fence_products();
    multiply<64, T::kKeys / 16>(dq, ByColumns<T::kKeys>(ds), ByColumns<T::kKeys>(k), false);
    commit_products();
  }
  __device__ __forceinline__ void finish_query_gradient(float (&dq)[32], bool drop) {
    wait_products<0>();
    hold(dq);
    if (drop) return;
    s_.dq_empty[w_].wait(dq_parity_);
    dq_parity_ ^= 1;
    float4* to = reinterpret_cast<float4*>(s_.dq[w_]) + thread_;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      to[i * kWarpgroup] = make_float4(dq[4 * i], dq[4 * i + 1], dq[4 * i + 2], dq[4 * i + 3]);
    }
    fence_async_proxy();
    named_arrive(kDqFull + w_, kWarpgroup + 32);
  }
  __device__ __forceinline__ void last_query_gradient(float (&dk)[D / 2], float (&dv)[D / 2]) {
    float dq[32];
    start_query_gradient(dq, false);
    wait_products<0>();
    hold(dk);
    hold(dv);
    release(s_.q_empty[stage_.stage ^ 1]);
    named_sync(kBothDone, 2 * kWarpgroup);  // K is no longer read
    if (thread_ == 0) s_.keys_empty.arrive();
    finish_query_gradient(dq, false);
  }

  // Scores of pairs that the item does not have become -inf.
  __device__ __forceinline__ void hide(const BackwardUnit& u, int tile,
                                       float (&scores)[T::kScores]) const {
    const int key_block = u.item.blocks[w_];
    const int key = thread_ / 32 * 16 + thread_ % 32 / 4;
#pragma unroll
    for (int b = 0; b < T::kBlocks; ++b) {
      const int query_block = tile * T::kBlocks + b;
      const int distance = query_block - key_block;
      const bool local = distance >= 0 && distance < a_.local_blocks;
      const bool all = key_block < 0 || (u.item.pair < 0 ? !local : distance < a_.local_blocks);
      if (!all && distance != 0) continue;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int query = n * 8 + thread_ % 4 * 2 + i % 2;
          if (all || query < key + i / 2 * 8) scores[(b * 8 + n) * 4 + i] = -INFINITY;
        }
      }
    }
  }

  __device__ __forceinline__ void probabilities(float (&scores)[T::kScores],
                                                const float* lse) const {
    const float scale = a_.scale * kLog2E;
#pragma unroll
    for (int n = 0; n < T::kQueries / 8; ++n) {
      const float2 l = *reinterpret_cast<const float2*>(lse + n * 8 + thread_ % 4 * 2);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[n * 4 + i] = exp2_fast(fmaf(scores[n * 4 + i], scale, i % 2 == 0 ? -l.x : -l.y));
      }
    }
  }
  // dS = P (dP - delta), over dP; with P as it was packed, which frees its registers.
  __device__ __forceinline__ void score_gradients(const uint32_t (&p)[T::kScores / 2],
                                                  float (&dp)[T::kScores],
                                                  const float* delta) const {
#pragma unroll
    for (int n = 0; n < T::kQueries / 8; ++n) {
      const float2 d = *reinterpret_cast<const float2*>(delta + n * 8 + thread_ % 4 * 2);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t pair = p[n * 2 + i];
        dp[n * 4 + 2 * i] = __uint_as_float(pair << 16) * (dp[n * 4 + 2 * i] - d.x);
        dp[n * 4 + 2 * i + 1] = __uint_as_float(pair & 0xffff0000u) * (dp[n * 4 + 2 * i + 1] - d.y);
      }
    }
  }

  // dK and dV of an item: added to what earlier items of the block left, and written out or left
  // for later ones.
  __device__ __forceinline__ void store_keys(const BackwardUnit& u, float (&dk)[D / 2],
                                             float (&dv)[D / 2]) {
    const int block = u.item.blocks[w_];
    const bool last = u.item.last[w_] != 0;
    if (block >= 0) {
      const int64_t place = static_cast<int64_t>(u.kv_head % a_.ring) * a_.slots + u.item.slot[w_];
      int* turn =
          a_.key_turns + static_cast<int64_t>(u.kv_head) * a_.blocks + u.first_block() + block;
      float4* sums = reinterpret_cast<float4*>(a_.key_sums + place * (2 * 64 * D)) + thread_;
      if (u.item.part[w_] > 0) {
        wait_turn(turn, u.item.part[w_]);
        add_from(dk, sums);
        add_from(dv, sums + 16 * D);
      } else if (!last && u.kv_head >= a_.ring) {
        wait_turn(turn - static_cast<int64_t>(a_.ring) * a_.blocks, kFinished);
      }
      if (!last) {
        leave_at(sums, dk);
        leave_at(sums + 16 * D, dv);
      }
      __threadfence();
      named_sync(kWarpgroupDone + w_, kWarpgroup);
      if (thread_ == 0) add_turn(turn, last ? kFinished : 1);
    }
    if (block >= 0 && last) write_out(u, block, dk, dv);
  }
  __device__ void wait_turn(const int* turn, int count) const {
    if (thread_ == 0) {
      while (read_turn(turn) < count) {
      }
    }
    named_sync(kWarpgroupDone + w_, kWarpgroup);
  }
  __device__ __forceinline__ void add_from(float (&x)[D / 2], const float4* sums) const {
#pragma unroll
    for (int i = 0; i < D / 8; ++i) {
      const float4 y = __ldcg(sums + i * kWarpgroup);
      x[4 * i] += y.x;
      x[4 * i + 1] += y.y;
      x[4 * i + 2] += y.z;
      x[4 * i + 3] += y.w;
    }
  }
  __device__ __forceinline__ void leave_at(float4* sums, const float (&x)[D / 2]) const {
#pragma unroll
    for (int i = 0; i < D / 8; ++i) {
      __stcg(sums + i * kWarpgroup,
             make_float4(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]));
    }
  }
  __device__ __forceinline__ void write_out(const BackwardUnit& u, int block, float (&dk)[D / 2],
                                            float (&dv)[D / 2]) {
#pragma unroll
    for (int i = 0; i < D / 2; ++i) dk[i] *= a_.scale;
    uint32_t packed[D / 4];
    pack_left(packed, dv);
    __nv_bfloat16* dv_tile = s_.ds[0];  // of kKeys rows; K and V are being loaded again
    store_tile<T::kKeys>(dv_tile, w_ * kBackwardBlock, packed);
    pack_left(packed, dk);
    s_.dq_empty[w_].wait(dq_parity_);
    __nv_bfloat16* dk_tile = reinterpret_cast<__nv_bfloat16*>(s_.dq[w_]);
    store_tile<kBackwardBlock>(dk_tile, 0, packed);
    fence_async_proxy();
    named_sync(kWarpgroupDone + w_, kWarpgroup);
    if (thread_ == 0) {
      const CUtensorMap* maps = a_.maps + u.item.document * kBackwardMaps;
      acquire_map(maps + kMapDk);
      acquire_map(maps + kMapDv);
      for (int p = 0; p < T::kPanels; ++p) {
        store_box(maps + kMapDk, dk_tile + p * kBackwardBlock * kPanelColumns, p * kPanelColumns,
                  u.kv_head, block * kBackwardBlock);
        store_box(maps + kMapDv, dv_tile + (p * T::kKeys + w_ * kBackwardBlock) * kPanelColumns,
                  p * kPanelColumns, u.kv_head, block * kBackwardBlock);
      }
      commit_stores();
    }
  }

  const BackwardKernelArgs& a_;
  Shared& s_;
  const int w_, thread_;
  RingPlace<kBackwardStages> stage_;
  int dq_parity_ = 1;
};

template <int D>
__global__ void __launch_bounds__(kBackwardThreads, 1)
    backward_kernel(const __grid_constant__ BackwardKernelArgs a) {
  extern __shared__ __align__(1024) unsigned char bytes[];
  auto& s = *reinterpret_cast<BackwardShared<D>*>(bytes);
  if (threadIdx.x == 0) {
    s.k_full.init(1);
    s.v_full.init(1);
    s.keys_empty.init(2);
    s.finish_full.init(1);
    for (int i = 0; i < kBackwardStages; ++i) {
      s.q_full[i].init(1);
      s.dout_full[i].init(1);
      s.q_empty[i].init(8);
      s.dout_empty[i].init(8);
    }
    for (int i = 0; i < 2; ++i) {
      s.ds_full[i].init(8);
      s.dq_empty[i].init(1);
      s.unit_full[i].init(1);
      s.unit_empty[i].init(4);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (warpgroup_index() == 0) {
    shrink_registers<D == 64 ? 40 : 24>();
    const int warp = warp_index();
    if (warp == 0) {
      if (elect_one()) load_items<D>(a, s);
    } else if (warp < 3) {
      send_query_gradients<D>(a, s, warp - 1);
    } else {
      finish_query_gradients<D>(a, s);
    }
  } else {
    grow_registers<D == 64 ? 232 : 240>();
    BackwardConsumer<D>(a, s, warpgroup_index() - 1).run();
  }
}

template <int D>
void launch_backward(const BackwardKernelArgs& args, int processors, cudaStream_t stream) {
  constexpr int kBytes = static_cast<int>(sizeof(BackwardShared<D>));
  cudaFuncSetAttribute(backward_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  const int blocks = args.unit_count < processors ? args.unit_count : processors;
  backward_kernel<D><<<blocks, kBackwardThreads, kBytes, stream>>>(args);
}

}  // namespace longgen::cuda::hopper
