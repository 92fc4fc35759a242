// Hopper's ways to wait: mbarriers in shared memory, named barriers, proxy fences, and registers
// handed from one warpgroup to another (PTX ISA 9.0: mbarrier, bar, fence.proxy, setmaxnreg).
#pragma once

#include <cstdint>

namespace longgen::cuda::hopper {

inline constexpr int kWarpgroup = 128;  // threads

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// An mbarrier. A phase ends when the arrivals it was made for and all bytes expected have come;
// wait(parity) returns once the phase of that parity (0 for the first) has ended. Waiting for
// parity 1 on a new barrier returns at once: "the phase before the first".
class Barrier {
 public:
  __device__ void init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address()), "r"(arrivals));
  }
  __device__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address()) : "memory");
  }
  // One arrival; the phase also waits for this many bytes of bulk copies.
  __device__ void arrive_expecting(int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address()),
                 "r"(bytes)
                 : "memory");
  }
  // Bytes are expected without an arrival.
  __device__ void expect(int bytes) {
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(address()),
                 "r"(bytes)
                 : "memory");
  }
  // Does not wait.
  __device__ bool is_done(int parity) {
    uint32_t done;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(address()), "r"(parity)
        : "memory");
    return done != 0;
  }
  __device__ void wait(int parity) {
    while (!wait_a_while(parity)) {
    }
  }
  __device__ uint32_t address() const { return shared_address(this); }

 private:
  // Sleeps until the phase has ended, or the hardware's time is up.
  __device__ bool wait_a_while(int parity) {
    uint32_t done;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(address()), "r"(parity)
        : "memory");
    return done != 0;
  }

  uint64_t state_;
};

// A place in a ring of kStages buffers, with the parity of its round.
template <int kStages>
struct RingPlace {
  int stage = 0, parity = 0;
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// After Barrier::init and before anything else uses the barriers; then __syncthreads.
__device__ inline void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Makes this thread's ordinary writes to shared memory visible to wgmma and bulk copies; every
// writing thread calls it before the barrier that hands the data over.
__device__ inline void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Named barriers 1 to 15 (0 is __syncthreads), `threads` of them syncing or arriving in all; whole
// warps.
__device__ inline void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// A barrier of all threads of the cluster's blocks that have not ended: what they wrote to shared
// memory, anywhere in the cluster, before they arrived is seen after the wait.
__device__ inline void arrive_at_cluster() {
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}
__device__ inline void wait_for_cluster() {
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}
// To what has this address in the shared memory of the cluster's block `rank`.
__device__ inline void store_to_block(float* here, int rank, float x) {
  uint32_t address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(address)
               : "r"(shared_address(here)), "r"(rank));
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(x) : "memory");
}

// Registers a thread of this warpgroup has from here on: a multiple of 8, 24 to 240; once, in the
// warpgroup's own branch. The kernel needs __launch_bounds__(threads, 1).
template <int kRegisters>
__device__ void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// True for one thread of a warp whose 32 threads all get here.
__device__ inline bool elect_one() {
  uint32_t elected;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(elected));
  return elected != 0;
}

// The same in all threads of a warp, and known to be to the compiler.
__device__ inline int uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }
__device__ inline int warp_index() { return uniform(static_cast<int>(threadIdx.x) / 32); }
__device__ inline int warpgroup_index() {
  return uniform(static_cast<int>(threadIdx.x) / kWarpgroup);
}

}  // namespace longgen::cuda::hopper
