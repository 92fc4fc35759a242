// Warpgroup matrix products of bf16 with f32 sums (PTX ISA 9.0, wgmma): operands in shared memory
// as the TMA unit leaves them under the 128-byte swizzle, or the left one in registers.
//
// A tile of R rows and C columns lies in shared memory as panels of 64 columns, each R rows of 128
// bytes (so R * 128 bytes apart), at multiples of 1024 bytes. It serves as either operand along
// either axis: `by_rows` when products sum over its columns, `by_columns` when they sum over its
// rows. Every step of a product sums over 16.
//
// An accumulator of 64 rows and N columns is float[N / 2] in each of the warpgroup's 128 threads:
// element n * 4 + i of a thread lies in row  warp * 16 + lane / 4 + 8 * (i / 2)  and column
// n * 8 + lane % 4 * 2 + i % 2  (warp within the warpgroup).
//
// Products are asynchronous: fence_products() before the first of a batch whenever registers it
// reads or adds to were written since; commit_products(); wait_products<k>() leaves the last k
// batches running. Registers of a running product must not be touched, nor may a compiler move
// their uses there: hold() the accumulators after the wait that ends their batch (and before the
// first product, when they have just been written). Shared memory written by ordinary stores needs
// fence_async_proxy() and a barrier first.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <type_traits>

#include "longgen/backend/cuda/attention/hopper/barrier.cuh"

namespace longgen::cuda::hopper {

inline constexpr int kPanelColumns = 64;  // bf16 elements of a swizzled row of 128 bytes

// How wgmma finds an operand: address, distance of panels, distance of groups of 8 rows, swizzle.
class Operand {
 public:
  __device__ Operand(const void* tile, int panel_bytes)
      : bits_(static_cast<uint64_t>((shared_address(tile) & 0x3ffff) >> 4) |
              static_cast<uint64_t>(panel_bytes >> 4) << 16 | uint64_t{1024 >> 4} << 32 |
              uint64_t{1} << 62) {}
  __device__ uint64_t bits() const { return bits_; }
  // Moved by bytes, a multiple of 16: 32 for 16 columns, 2048 for 16 rows, or to other panels.
  __device__ Operand at(int bytes) const {
    Operand moved = *this;
    moved.bits_ += static_cast<uint64_t>(bytes >> 4);
    return moved;
  }

 private:
  uint64_t bits_;
};

// Tile of kRows rows whose columns are summed over: step k has columns 16 k to 16 k + 15.
template <int kRows>
struct ByRows {
  static constexpr int kTransposed = 0;
  Operand operand;
  __device__ explicit ByRows(const void* tile) : operand(tile, 0) {}
  __device__ uint64_t step(int k) const {
    return operand.at(k / 4 * kRows * 128 + k % 4 * 32).bits();
  }
};
// Tile of kRows rows that are summed over: step k has rows 16 k to 16 k + 15.
template <int kRows>
struct ByColumns {
  static constexpr int kTransposed = 1;
  Operand operand;
  __device__ explicit ByColumns(const void* tile) : operand(tile, kRows * 128) {}
  __device__ uint64_t step(int k) const { return operand.at(k * 2048).bits(); }
};

__device__ inline void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kRunning>
__device__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kRunning) : "memory");
}
template <typename T, int kCount>
__device__ void hold(T (&registers)[kCount]) {
  static_assert(sizeof(T) == 4);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      asm volatile("" : "+f"(registers[i])::"memory");
    } else {
      asm volatile("" : "+r"(registers[i])::"memory");
    }
  }
}

// Two floats as bf16, the first in the low half.
__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
// An accumulator of N columns as the left operand of a product that sums over those columns: step k
// takes left[4 k] to left[4 k + 3].
template <int kCount>
__device__ void pack_left(uint32_t (&left)[kCount / 2], const float (&accumulator)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    left[i] = pack_bf16(accumulator[2 * i], accumulator[2 * i + 1]);
  }
}

// One step: 64 x N sums over 16. With add = 0 the accumulator is overwritten.
template <int N>
struct ProductStep;

template <>
struct ProductStep<64> {
  template <int kTransposeA, int kTransposeB>
  __device__ static void shared(float (&d)[32], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
        "}, %32, %33, p, 1, 1, %35, %36;\n}\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
          "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
          "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
          "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
          "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b), "r"(add), "n"(kTransposeA), "n"(kTransposeB));
  }
  template <int kTransposeB>
  __device__ static void registers(float (&d)[32], const uint32_t* a, uint64_t b, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
        "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
          "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
          "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
          "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
          "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(kTransposeB));
  }
};

template <>
struct ProductStep<128> {
  template <int kTransposeA, int kTransposeB>
  __device__ static void shared(float (&d)[64], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, %64, %65, p, 1, 1, %67, %68;\n}\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
          "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
          "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
          "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
          "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
          "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
          "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
          "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]),
          "+f"(d[63])
        : "l"(a), "l"(b), "r"(add), "n"(kTransposeA), "n"(kTransposeB));
  }
  template <int kTransposeB>
  __device__ static void registers(float (&d)[64], const uint32_t* a, uint64_t b, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
          "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
          "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
          "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
          "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
          "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
          "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
          "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]),
          "+f"(d[63])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(kTransposeB));
  }
};

// sums (+)= left * right over kSteps steps; the first overwrites unless `add`.
template <int N, int kSteps, typename Left, typename Right>
__device__ void multiply(float (&sums)[N / 2], const Left& left, const Right& right, bool add) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    ProductStep<N>::template shared<Left::kTransposed, Right::kTransposed>(
        sums, left.step(k), right.step(k), k > 0 || add);
  }
}
// The same with the left operand in registers (pack_left).
template <int N, int kSteps, typename Right>
__device__ void multiply(float (&sums)[N / 2], const uint32_t (&left)[4 * kSteps],
                         const Right& right, bool add) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    ProductStep<N>::template registers<Right::kTransposed>(sums, left + 4 * k, right.step(k),
                                                           k > 0 || add);
  }
}

}  // namespace longgen::cuda::hopper
