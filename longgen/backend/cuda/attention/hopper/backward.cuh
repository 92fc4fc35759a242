// Attention backward on wgmma and TMA: one kernel, five products a tile, repeatable.
//
// A block of three warpgroups takes items (backward_work.h): two key blocks of 64, one for each of
// two consumer warpgroups, and a range of query tiles, for all query heads of the group. dK and dV
// stay in registers. S^T = K Q^T and dP^T = V dO^T are computed with keys as rows, so that
// P^T and dS^T are left operands from registers for dV += P^T dO and dK += dS^T Q; dS also goes
// through shared memory for dQ = dS K, which needs all 128 keys. dQ leaves through shared memory,
// added to f32 sums in L2 by bulk copies in a fixed order (query_turns).
//
// In a step of query tile j the tensor cores get, in this order,
//   with 128 channels: S(j), dP(j) under the exponentials of S(j), dV under the computation of
//   dS(j),
//     dQ(j - 1), dK under the storing of dQ;
//   with 64, where registers are too few for S and dP side by side: S(j), dQ(j - 1) under the
//     exponentials, dP(j), dV under the computation of dS(j), dK.
//
// The third warpgroup moves data: backward_producer.cuh.
#pragma once

#include "longgen/backend/cuda/attention/hopper/backward_producer.cuh"

namespace longgen::cuda::hopper {

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Writes this warpgroup's 64 rows of packed pairs to the first rows of a tile of panels of kRows
// rows, under the swizzle.
template <int kRows, int kCount>
__device__ void store_tile(__nv_bfloat16* tile, const uint32_t (&packed)[kCount]) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int row = warp * 16 + lane % 16;
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

// Writes 64 rows of packed pairs as the columns of a panel, under the swizzle.
template <int kCount>
__device__ void store_transposed(__nv_bfloat16* panel, const uint32_t (&packed)[kCount]) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int row = lane / 16 * 8 + lane % 8, chunk = warp * 2 + lane / 8 % 2;
  const uint32_t to = shared_address(panel) + row * 128 + ((chunk ^ (row % 8)) << 4);
#pragma unroll
  for (int m = 0; m < kCount / 4; ++m) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     to + m * 2048),
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
    while (true) {
      const BackwardUnit& u = reader.next(s_);
      const int steps = u.steps;
      if (steps == 0) break;
      if (thread_ == 0) wait_stores_read<0>();  // of write_out
      named_sync(kWarpgroupDone + w_, kWarpgroup);
      s_.k_full.wait(keys_parity_);
      float dk[D / 2], dv[D / 2];
#pragma unroll
      for (int i = 0; i < D / 2; ++i) dk[i] = dv[i] = 0;
      int tile = u.item.first_tile;
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
  // S and dP at once; dQ of the step before comes after dS.
  static constexpr bool kBothAtOnce = D > 64;

  // In the first step dQ of "the step before" is computed from whatever lies there and dropped: a
  // second copy of this function without it takes registers that ptxas does not find.
  __device__ __forceinline__ void step(const BackwardUnit& u, bool first, int tile,
                                       float (&dk)[D / 2], float (&dv)[D / 2]) {
    const int stage = stage_.stage, q = q_.stage;
    float scores[T::kScores], dscores[T::kScores], dq[32];
    s_.q_full[q].wait(q_.parity);
    fence_products();
    multiply<T::kQueries, D / 16>(scores, own_rows(s_.k), ByRows<T::kQueries>(s_.q[q]), false);
    commit_products();
    if constexpr (kBothAtOnce) {
      start_value_products(dscores, first);
    } else {
      start_query_gradient(dq, first);
    }
    wait_products<1>();  // S, and dK of the step before
    hold(scores);
    if (!first) release(s_.q_empty[q_before()]);
    hide(u, tile, scores);
    probabilities(scores, s_.lse[q]);
    uint32_t p[T::kScores / 2];
    pack_left(p, scores);
    if constexpr (!kBothAtOnce) {
      keep_behind(p);
      wait_products<0>();
      finish_query_gradient(dq, first);
      start_value_products(dscores, first);
    }
    hold(p);
    fence_products();
    multiply<D, T::kQueries / 16>(dv, p, ByColumns<T::kQueries>(s_.dout[stage]), true);
    commit_products();
    wait_products<1>();  // dP
    hold(dscores);
    score_gradients(p, dscores, s_.delta[stage]);
    uint32_t ds[T::kScores / 2];
    pack_left(ds, dscores);
    if constexpr (kBothAtOnce) s_.ds_empty[stage].wait(stage_.parity ^ 1);
    store_transposed(s_.ds[stage] + w_ * T::kQueries * kPanelColumns, ds);
    fence_async_proxy();
    release(s_.ds_full[stage]);
    if constexpr (kBothAtOnce) start_query_gradient(dq, first);
    hold(ds);
    fence_products();
    multiply<D, T::kQueries / 16>(dk, ds, ByColumns<T::kQueries>(s_.q[q]), true);
    commit_products();
    if constexpr (kBothAtOnce) {
      wait_products<2>();  // dV
      release(s_.dout_empty[stage]);
      wait_products<1>();  // dQ
      finish_query_gradient(dq, first);
    } else {
      wait_products<1>();  // dV
      release(s_.dout_empty[stage]);
    }
    stage_.advance();
    q_.advance();
  }
  // dP = V dO^T.
  __device__ __forceinline__ void start_value_products(float (&dscores)[T::kScores], bool first) {
    if (first) {
      s_.v_full.wait(keys_parity_);
      keys_parity_ ^= 1;
    }
    const int stage = stage_.stage;
    s_.dout_full[stage].wait(stage_.parity);
    fence_products();
    multiply<T::kQueries, D / 16>(dscores, own_rows(s_.v), ByRows<T::kQueries>(s_.dout[stage]),
                                  false);
    commit_products();
  }
  __device__ int q_before() const { return q_.stage == 0 ? kQueryStages - 1 : q_.stage - 1; }

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
    const __nv_bfloat16* ds = s_.ds[before] + (D > 64 ? 0 : w_ * kBackwardBlock * kPanelColumns);
    const __nv_bfloat16* k = s_.k + (D > 64 ? w_ * T::kKeys * kPanelColumns : 0);
    fence_products();
    multiply<64, T::kKeys / 16>(dq, ByRows<T::kQueries>(ds), ByColumns<T::kKeys>(k), false);
    commit_products();
  }
  __device__ __forceinline__ void finish_query_gradient(float (&dq)[32], bool drop) {
    hold(dq);
    if (drop) return;
    // With 64 channels dS needs no such barrier: the other warpgroup stores there again only after
    // it has waited for this one's dS of the next step, which comes after this.
    if constexpr (kBothAtOnce) release(s_.ds_empty[stage_.stage ^ 1]);
    s_.dq_empty[w_].wait(dq_parity_);
    dq_parity_ ^= 1;
    float4* to = reinterpret_cast<float4*>(s_.dq[w_]) + thread_;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      to[i * kWarpgroup] = make_float4(dq[4 * i], dq[4 * i + 1], dq[4 * i + 2], dq[4 * i + 3]);
    }
    fence_async_proxy();
    named_arrive(kDqFull + w_ + 2 * (stage_.stage ^ 1), kWarpgroup + 32);
  }
  __device__ __forceinline__ void last_query_gradient(float (&dk)[D / 2], float (&dv)[D / 2]) {
    float dq[32];
    start_query_gradient(dq, false);
    wait_products<0>();
    hold(dk);
    hold(dv);
    release(s_.q_empty[q_before()]);
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

  // Of this thread's columns, for the 16 queries from 16 n on (backward_stats.cu).
  __device__ float4 stats_of(const float* stats, int n) const {
    return reinterpret_cast<const float4*>(stats)[n * 4 + thread_ % 4];
  }
  __device__ __forceinline__ void probabilities(float (&scores)[T::kScores],
                                                const float* lse) const {
    const float scale = a_.scale * kLog2E;
#pragma unroll
    for (int n = 0; n < T::kQueries / 16; ++n) {
      const float4 l = stats_of(lse, n);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float x = i < 4 ? (i % 2 == 0 ? l.x : l.y) : (i % 2 == 0 ? l.z : l.w);
        scores[n * 8 + i] = exp2_fast(fmaf(scores[n * 8 + i], scale, -x));
      }
    }
  }
  // What follows stays behind the exponentials. The compiler would move a wait for products to
  // before them, but not over a branch that depends on them: a sign, which no exponential has.
  // Three quarters are left to it, or it runs out of registers.
  __device__ __forceinline__ void keep_behind(const uint32_t (&p)[T::kScores / 2]) const {
    uint32_t signs = 0;
#pragma unroll
    for (int i = T::kScores * 3 / 8; i < T::kScores / 2; ++i) signs |= p[i];
    if (__any_sync(0xffffffffu, (signs & 0x80008000u) != 0)) __nanosleep(0);
  }
  // dS = P (dP - delta), over dP; with P as it was packed, which frees its registers.
  __device__ __forceinline__ void score_gradients(const uint32_t (&p)[T::kScores / 2],
                                                  float (&dp)[T::kScores],
                                                  const float* delta) const {
#pragma unroll
    for (int n = 0; n < T::kQueries / 16; ++n) {
      const float4 d = stats_of(delta, n);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t pair = p[n * 4 + i];
        float& low = dp[n * 8 + 2 * i];
        float& high = dp[n * 8 + 2 * i + 1];
        low = __uint_as_float(pair << 16) * (low - (i < 2 ? d.x : d.z));
        high = __uint_as_float(pair & 0xffff0000u) * (high - (i < 2 ? d.y : d.w));
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
    // This warpgroup's part of dS: K and V are being loaded again.
    __nv_bfloat16* dv_tile = s_.ds[0] + w_ * T::kQueries * kPanelColumns;
    store_tile<T::kKeys>(dv_tile, packed);
    pack_left(packed, dk);
    auto* dk_tile = reinterpret_cast<__nv_bfloat16*>(s_.dq[w_]);  // of 64 rows
    s_.dq_empty[w_].wait(dq_parity_);
    store_tile<kBackwardBlock>(dk_tile, packed);
    fence_async_proxy();
    named_sync(kWarpgroupDone + w_, kWarpgroup);
    if (thread_ == 0) {
      const CUtensorMap* maps = a_.maps + u.item.document * kBackwardMaps;
      acquire_map(maps + kMapDk);
      acquire_map(maps + kMapDv);
      for (int p = 0; p < T::kPanels; ++p) {
        store_box(maps + kMapDk, dk_tile + p * kBackwardBlock * kPanelColumns, p * kPanelColumns,
                  u.kv_head, block * kBackwardBlock);
        store_box(maps + kMapDv, dv_tile + p * T::kKeys * kPanelColumns, p * kPanelColumns,
                  u.kv_head, block * kBackwardBlock);
      }
      commit_stores();
    }
  }

  const BackwardKernelArgs& a_;
  Shared& s_;
  const int w_, thread_;
  RingPlace<kBackwardStages> stage_;
  RingPlace<kQueryStages> q_;
  int dq_parity_ = 1, keys_parity_ = 0;
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
    for (int i = 0; i < kQueryStages; ++i) {
      s.q_full[i].init(1);
      s.q_empty[i].init(8);
    }
    for (int i = 0; i < kBackwardStages; ++i) {
      s.dout_full[i].init(1);
      s.dout_empty[i].init(8);
    }
    for (int i = 0; i < 2; ++i) {
      s.ds_full[i].init(8);
      s.ds_empty[i].init(8);
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
  static_assert(kBytes <= 227 * 1024, "more shared memory than a thread block can have");
  cudaFuncSetAttribute(backward_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  const int blocks = args.unit_count < processors ? args.unit_count : processors;
  backward_kernel<D><<<blocks, kBackwardThreads, kBytes, stream>>>(args);
}

}  // namespace longgen::cuda::hopper
