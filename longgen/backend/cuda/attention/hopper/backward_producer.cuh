// The warps of the backward kernel that move data: one takes items and loads, two send dQ to its
// sums in turn, one makes dq of sums that are complete. See backward.cuh.
#pragma once

#include "longgen/backend/cuda/attention/hopper/backward_shared.cuh"

namespace longgen::cuda::hopper {

template <int D>
__device__ void load_items(const BackwardKernelArgs& a, BackwardShared<D>& s) {
  using T = BackwardTile<D>;
  constexpr int kTileBytes = T::kQueries * D * 2, kStatBytes = T::kQueries * 4;
  RingPlace<2> unit_place;
  RingPlace<kQueryStages> q;
  RingPlace<kBackwardStages> dout;
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
      s.q_empty[q.stage].wait(q.parity ^ 1);
      load_queries(s.q[q.stage], kMapQ, s.lse[q.stage], 0, &s.q_full[q.stage]);
      q.advance();
      if (step == 0) load_keys(s.v, kMapV, &s.v_full);
      s.dout_empty[dout.stage].wait(dout.parity ^ 1);
      load_queries(s.dout[dout.stage], kMapDout, s.delta[dout.stage], 1, &s.dout_full[dout.stage]);
      dout.advance();
      at.advance(u);
    }
  }
}

// Where the turns of a query tile are counted: with its first sums.
template <int D>
__device__ int64_t turn_place(const BackwardKernelArgs& a, int row_begin, int head, int tile) {
  return (static_cast<int64_t>(head) * a.blocks + row_begin / kBackwardBlock +
          tile * BackwardTile<D>::kBlocks) *
         (D / 64);
}

// Adds dQ to its sums, tile by tile, when it is the item's turn: one warp the even steps, one the
// odd ones, so that a turn ends as soon as the sums have arrived and the next tile need not wait
// for that.
template <int D>
__device__ void send_query_gradients(const BackwardKernelArgs& a, BackwardShared<D>& s, int odd) {
  using T = BackwardTile<D>;
  constexpr int kBytes = 64 * 64 * 4;
  const int lane = threadIdx.x % 32;
  UnitReader reader;
  int stage = 0;
  while (true) {
    const BackwardUnit& u = reader.next(s);
    const int steps = u.steps;
    if (steps == 0) return;
    BackwardStep at(a, u);
    for (int step = 0; step < steps; ++step, stage ^= 1, at.advance(u)) {
      if (stage != odd) continue;
      // Other items that add to this tile before (backward_work.cpp: turn_of).
      const int first = at.tile * T::kBlocks;
      int turn = (first + T::kBlocks - 1) / 2;
      turn = u.item.pair < 0
                 ? turn - u.item.blocks[0] / 2
                 : turn - max(0, first - min(a.local_blocks, 1 << 28) + 1) / 2 + 1 + u.item.pair;
      const int64_t place = turn_place<D>(a, u.item.row_begin, at.head, at.tile);
      if (lane == 0) {
        while (read_turn(a.query_turns + place) != turn) {
        }
        asm volatile("fence.proxy.async;" ::: "memory");
      }
      for (int w = 0; w < 2; ++w) {
        named_sync(kDqFull + w + 2 * odd, kWarpgroup + 32);
        // With 64 channels warpgroup 1 has the second block of queries, which may not exist.
        if (lane == 0 && (D > 64 || first + w < u.blocks())) {
          float* to = a.query_sums + (place + w) * (64 * 64);
          if (turn == 0) {
            store_bytes(to, s.dq[w], kBytes);
          } else {
            add_bytes(to, s.dq[w], kBytes);
          }
        }
        if (lane == 0) commit_stores();
      }
      if (lane == 0) {
        wait_stores_read<1>();
        s.dq_empty[0].arrive();
        wait_stores_read<0>();
        s.dq_empty[1].arrive();
        wait_stores_done<0>();
        asm volatile("fence.proxy.async;" ::: "memory");
        add_turn(a.query_turns + place, 1);
      }
      __syncwarp();
    }
    if (lane == 0) reader.release(s);
    reader.place.advance();
  }
}

// One block of queries, one head and 64 channels after the other: sums that are complete become dq.
template <int D>
__device__ void finish_query_gradients(const BackwardKernelArgs& a, BackwardShared<D>& s) {
  using T = BackwardTile<D>;
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
        const int64_t turns = turn_place<D>(a, f.row_begin, head, f.block / T::kBlocks);
        while (read_turn(a.query_turns + turns) < f.turns) __nanosleep(200);
        asm volatile("fence.proxy.async;" ::: "memory");
        wait_stores_read<0>();
      }
      // From how wgmma leaves a warpgroup's sums (wgmma.cuh) to the swizzled rows of a box, 16
      // channels at a time.
      for (int part = 0; part < kFinishParts; ++part) {
        __syncwarp();
        if (lane == 0) {
          s.finish_full.arrive_expecting(sizeof(s.finish));
          load_bytes(s.finish, a.query_sums + place * (64 * 64) + part * (64 * 64 / kFinishParts),
                     sizeof(s.finish), &s.finish_full);
        }
        s.finish_full.wait(parity);
        parity ^= 1;
        for (int j = 0; j < 32 / kFinishParts; ++j) {
          const int n = part * (8 / kFinishParts) + j / 4, row = j % 4 * 16 + lane / 4;
          const float4 x = reinterpret_cast<const float4*>(s.finish)[j * 32 + lane];
          auto* to = reinterpret_cast<unsigned char*>(s.finished) + row * 128 +
                     ((n ^ (row % 8)) << 4) + lane % 4 * 4;
          *reinterpret_cast<uint32_t*>(to) = pack_bf16(x.x * a.scale, x.y * a.scale);
          *reinterpret_cast<uint32_t*>(to + 8 * 128) = pack_bf16(x.z * a.scale, x.w * a.scale);
        }
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

}  // namespace longgen::cuda::hopper
