// libFuzzer's entry points for the target that the environment's LONGGEN_FUZZ_TARGET names.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/fuzz/target.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

// Libfuzzer starts itself again to merge corpora, and with it goes the environment.
const longgen::fuzz::Target& find_named_target() {
  const char* const name = std::getenv("LONGGEN_FUZZ_TARGET");
  const auto* const found = longgen::fuzz::find_target(name == nullptr ? "" : name);
  if (found != nullptr) return *found;
  std::fputs("error: set LONGGEN_FUZZ_TARGET to one of:", stderr);
  for (const auto& target : longgen::fuzz::targets()) std::fprintf(stderr, " %s", target.name);
  std::fputs("\n", stderr);
  std::exit(2);
}

const longgen::fuzz::Target& target() {
  static const longgen::fuzz::Target& named = find_named_target();
  return named;
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
