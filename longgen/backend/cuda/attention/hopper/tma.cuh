// Bulk copies between global and shared memory, device side (PTX ISA 9.0: cp.async.bulk). The
// host's side, which describes tensors, is tensor_map.h.
//
// Loads complete on a Barrier, which must expect their bytes: boxes count whole, also where they
// reach outside the tensor (there zeros arrive). One thread issues them.
#pragma once

#include <cuda.h>

#include "longgen/backend/cuda/attention/hopper/barrier.cuh"

namespace longgen::cuda::hopper {

// What a copy is likely to mean for L2: created encodings of createpolicy.fractional (fraction 1).
inline constexpr uint64_t kEvictFirst = 0x12F0000000000000u;
inline constexpr uint64_t kEvictNormal = 0x1000000000000000u;
inline constexpr uint64_t kEvictLast = 0x14F0000000000000u;

__device__ inline void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// Before the first use of a map that lies in global memory rather than among the kernel's
// parameters: maps written there by the host are seen.
__device__ inline void acquire_map(const CUtensorMap* map) {
  asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(map) : "memory");
}

// Boxes at coordinates, innermost dimension first.
__device__ inline void load_box(void* to, const CUtensorMap* map, Barrier* barrier, int c0, int c1,
                                uint64_t policy = kEvictNormal) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
      "l"(map), "r"(barrier->address()), "r"(c0), "r"(c1), "l"(policy)
      : "memory");
}
__device__ inline void load_box(void* to, const CUtensorMap* map, Barrier* barrier, int c0, int c1,
                                int c2, uint64_t policy = kEvictNormal) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(shared_address(to)),
      "l"(map), "r"(barrier->address()), "r"(c0), "r"(c1), "r"(c2), "l"(policy)
      : "memory");
}
__device__ inline void load_box(void* to, const CUtensorMap* map, Barrier* barrier, int c0, int c1,
                                int c2, int c3, uint64_t policy = kEvictNormal) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(shared_address(to)),
      "l"(map), "r"(barrier->address()), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "l"(policy)
      : "memory");
}
__device__ inline void store_box(const CUtensorMap* map, const void* from, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
      "r"(shared_address(from)), "r"(c0), "r"(c1)
      : "memory");
}
__device__ inline void store_box(const CUtensorMap* map, const void* from, int c0, int c1, int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
      "r"(shared_address(from)), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}

// Contiguous bytes: addresses and size are multiples of 16.
__device__ inline void load_bytes(void* to, const void* from, int bytes, Barrier* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(barrier->address())
      : "memory");
}
__device__ inline void store_bytes(void* to, const void* from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
               "r"(shared_address(from)), "r"(bytes)
               : "memory");
}
// f32 sums into global memory. Ordered only by who waits for whom: one adder at a time, or the
// result is not repeatable.
__device__ inline void add_bytes(float* to, const void* from, int bytes) {
  asm volatile(
      "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to),
      "r"(shared_address(from)), "r"(bytes)
      : "memory");
}

// Stores and sums of this thread, in groups. Read: their shared memory may be written again.
// Done: others see the result (after a fence or a grid's end).
__device__ inline void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int kPending>
__device__ void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
template <int kPending>
__device__ void wait_stores_done() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace longgen::cuda::hopper
