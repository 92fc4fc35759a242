// libFuzzer's entry points for the target named by LONGGEN_FUZZ_TARGET (one program a target).
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/fuzz/target.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

const longgen::fuzz::Target& target() {
  static const longgen::fuzz::Target* const found = longgen::fuzz::find_target(LONGGEN_FUZZ_TARGET);
  if (found == nullptr) std::abort();
  return *found;
}

std::string mutate_bytes(std::string bytes, size_t max_size) {
  const size_t size = std::min(bytes.size(), max_size);
  bytes.resize(std::max<size_t>(max_size, 1));
  bytes.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(bytes.data()), size, bytes.size()));
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  target().run({reinterpret_cast<const char*>(data), size});
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  if (target().mutate == nullptr) return LLVMFuzzerMutate(data, size, max_size);
  const std::string changed =
      target().mutate({reinterpret_cast<const char*>(data), size}, max_size, seed, mutate_bytes);
  const size_t count = std::min(changed.size(), max_size);
  std::memcpy(data, changed.data(), count);
  return count;
}
