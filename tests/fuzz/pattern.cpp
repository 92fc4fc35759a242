#include "longgen/base/error.h"
#include "longgen/pattern/hybrid_spec.h"
#include "tests/fuzz/target.h"

namespace longgen::fuzz {

void run_hybrid_spec(std::string_view bytes) {
  expect_clear_error("", [&] {
    const HybridSpec spec = HybridSpec::parse(bytes);
    for (const auto& [layers, heads] : {std::pair<int64_t, int64_t>{1, 1}, {30, 3}, {32, 8}}) {
      const auto patterns = spec.resolve(layers, heads);
      check(static_cast<int64_t>(patterns.size()) == layers, "one pattern a layer");
      for (const AttentionPattern& pattern : patterns) {
        pattern.validate(heads);
        for (const int64_t length : {int64_t{1}, int64_t{4096}, int64_t{1} << 40}) {
          const int64_t kept = pattern.tokens_kept(length, heads - 1);
          check(kept >= 1 && kept <= length, "at least one token is kept, and no more than all");
        }
        check(pattern.pairs(4096, 0) >= 4096, "every query sees itself");
      }
    }
  });
}

}  // namespace longgen::fuzz
