// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11, doi:10.1145/2063384.2063405).
// The n-th number of a stream depends on (seed, stream, n) alone, so a run resumes by remembering
// its counters and never by replaying draws.
#pragma once

#include <array>
#include <cstdint>

namespace longgen {

// The four 32-bit words of block `counter` of stream `stream` under `seed`.
std::array<uint32_t, 4> philox(uint64_t seed, uint64_t stream, uint64_t counter);

// Draws from one stream in order. State = (seed, stream, position): copy it to save it.
class Rng {
 public:
  Rng(uint64_t seed, uint64_t stream, uint64_t position = 0)
      : seed_(seed), stream_(stream), position_(position) {}

  uint32_t next_u32();
  uint64_t next_u64();
  double uniform();                // [0, 1), 53 bits
  uint64_t below(uint64_t bound);  // unbiased, [0, bound); bound > 0
  double normal();                 // mean 0, variance 1 (Box-Muller, one value a draw)

  uint64_t seed() const { return seed_; }
  uint64_t stream() const { return stream_; }
  uint64_t position() const { return position_; }  // 32-bit words drawn so far

 private:
  uint64_t seed_, stream_, position_;
};

}  // namespace longgen
