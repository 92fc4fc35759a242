#include "longgen/api/pattern.h"

#include <utility>

#include "longgen/base/error.h"
#include "longgen/pattern/hybrid_spec.h"

namespace longgen {
namespace {

void check_length(int64_t length) { require(length >= 0, "a document of {} tokens", length); }

}  // namespace

Pattern::Pattern(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

Pattern Pattern::parse(std::string_view text, int64_t kv_heads) {
  if (text == "full") {
    return Pattern(std::make_shared<const Impl>(Impl{AttentionPattern::full()}));
  }
  return parse_hybrid("full=middle:0 sparse=" + std::string(text), 1, kv_heads)[0];
}

std::vector<Pattern> Pattern::parse_hybrid(std::string_view text, int64_t layers,
                                           int64_t kv_heads) {
  std::vector<Pattern> patterns;
  for (AttentionPattern& pattern : HybridSpec::parse(text).resolve(layers, kv_heads)) {
    patterns.push_back(Pattern(std::make_shared<const Impl>(Impl{std::move(pattern)})));
  }
  return patterns;
}

bool Pattern::is_full() const { return impl_->pattern.is_full(); }

int64_t Pattern::block_size() const { return impl_->pattern.block_size; }

bool Pattern::sees(int64_t query, int64_t key, int64_t kv_head) const {
  require(query >= 0 && key >= 0, "positions {} and {}", query, key);
  return impl_->pattern.sees(query, key, kv_head);
}

int64_t Pattern::pairs(int64_t length, int64_t kv_head) const {
  check_length(length);
  return impl_->pattern.pairs(length, kv_head);
}

int64_t Pattern::tokens_kept(int64_t length, int64_t kv_head) const {
  check_length(length);
  return impl_->pattern.tokens_kept(length, kv_head);
}

std::string Pattern::to_string() const { return impl_->pattern.to_string(); }

}  // namespace longgen
