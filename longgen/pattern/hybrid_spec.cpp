#include "longgen/pattern/hybrid_spec.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "longgen/base/error.h"

namespace longgen {
namespace {

constexpr std::string_view kFullHelp =
    "full= takes middle:K, top:K, bottom:K, interleaved:K (K a number or a fraction such as 1/3) "
    "or a "
    "list such as 10-21";
constexpr std::string_view kSparseHelp =
    "sparse= takes sink-window, strided, or a list of local:N, sink:N, stride:N, block:N, offset:N "
    "(or offset:heads)";

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

int64_t parse_count(std::string_view text, std::string_view word) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty() || value < 0 ||
      value > 1'000'000'000) {
    fail_usage("hybrid: \"{}\" in \"{}\" is not a whole number", text, word);
  }
  return value;
}

// More layers than any model has, few enough that a list of many ranges is read at once.
constexpr int64_t kMaxRange = 4096;

// "12", "1/3" or "0.33".
void parse_full_count(std::string_view text, std::string_view word, HybridSpec& spec) {
  if (const size_t slash = text.find('/'); slash != std::string_view::npos) {
    spec.numerator = parse_count(text.substr(0, slash), word);
    spec.denominator = parse_count(text.substr(slash + 1), word);
    spec.is_fraction = true;
  } else if (const size_t point = text.find('.'); point != std::string_view::npos) {
    const std::string_view decimals = text.substr(point + 1);
    if (decimals.size() > 6) fail_usage("hybrid: \"{}\" has more than six decimals", word);
    for (size_t i = 0; i < decimals.size(); ++i) spec.denominator *= 10;
    spec.numerator =
        (point == 0 ? 0 : parse_count(text.substr(0, point), word)) * spec.denominator +
        parse_count(decimals, word);
    spec.is_fraction = true;
  } else {
    spec.numerator = parse_count(text, word);
  }
  if (spec.is_fraction && (spec.denominator == 0 || spec.numerator > spec.denominator)) {
    fail_usage("hybrid: \"{}\" is not a fraction between 0 and 1", word);
  }
}

void parse_full(std::string_view value, HybridSpec& spec) {
  using Placement = HybridSpec::Placement;
  const size_t colon = value.find(':');
  if (colon != std::string_view::npos) {
    const std::string_view name = value.substr(0, colon);
    if (name == "middle")
      spec.placement = Placement::kMiddle;
    else if (name == "top")
      spec.placement = Placement::kTop;
    else if (name == "bottom")
      spec.placement = Placement::kBottom;
    else if (name == "interleaved")
      spec.placement = Placement::kInterleaved;
    else
      fail_usage("hybrid: unknown placement \"{}\"; {}", name, kFullHelp);
    parse_full_count(value.substr(colon + 1), value, spec);
    return;
  }
  if (value.empty() || value.find_first_not_of("0123456789,-") != std::string_view::npos) {
    fail_usage("hybrid: cannot read \"full={}\"; {}", value, kFullHelp);
  }
  spec.placement = Placement::kList;
  for (const std::string_view item : split(value, ',')) {
    const size_t dash = item.find('-');
    const int64_t first = parse_count(item.substr(0, dash), item);
    const int64_t last =
        dash == std::string_view::npos ? first : parse_count(item.substr(dash + 1), item);
    if (last < first || last - first >= kMaxRange) {
      fail_usage("hybrid: \"{}\" is not a range of layers", item);
    }
    for (int64_t layer = first; layer <= last; ++layer) spec.full_list.push_back(layer);
  }
  std::sort(spec.full_list.begin(), spec.full_list.end());
  spec.full_list.erase(std::unique(spec.full_list.begin(), spec.full_list.end()),
                       spec.full_list.end());
}

void parse_sparse(std::string_view value, HybridSpec& spec) {
  if (value == "sink-window") value = "local:32,sink:1";
  if (value == "strided") value = "local:16,sink:1,stride:64";
  AttentionPattern& pattern = spec.sparse;
  bool has_local = false;
  for (const std::string_view item : split(value, ',')) {
    const size_t colon = item.find(':');
    const std::string_view name = item.substr(0, colon);
    if (colon == std::string_view::npos) {
      fail_usage("hybrid: cannot read \"{}\" in \"sparse={}\"; {}", item, value, kSparseHelp);
    }
    const std::string_view number = item.substr(colon + 1);
    if (name == "offset" && number == "heads") {
      spec.offset_per_head = true;
      continue;
    }
    const int64_t count = parse_count(number, item);
    if (name == "local") {
      pattern.local_blocks = count;
      has_local = true;
    } else if (name == "sink") {
      pattern.sink_blocks = count;
    } else if (name == "stride") {
      pattern.stride = count;
    } else if (name == "block") {
      pattern.block_size = count;
    } else if (name == "offset") {
      pattern.offsets = {count};
    } else {
      fail_usage("hybrid: unknown word \"{}\" in \"sparse={}\"; {}", name, value, kSparseHelp);
    }
  }
  if (!has_local) fail_usage("hybrid: \"sparse={}\" does not say local:N; {}", value, kSparseHelp);
}

std::vector<int64_t> full_layers(const HybridSpec& spec, int64_t layers) {
  using Placement = HybridSpec::Placement;
  if (spec.placement == Placement::kList) {
    if (!spec.full_list.empty() && spec.full_list.back() >= layers) {
      fail_usage("hybrid: full= names layer {}, but the model has layers 0 to {}",
                 spec.full_list.back(), layers - 1);
    }
    return spec.full_list;
  }
  const int64_t count =
      spec.is_fraction ? (2 * spec.numerator * layers + spec.denominator) / (2 * spec.denominator)
                       : spec.numerator;
  if (count > layers) fail_usage("hybrid: {} full layers, but the model has {}", count, layers);
  std::vector<int64_t> list(static_cast<size_t>(count));
  if (spec.placement == Placement::kInterleaved) {
    for (int64_t i = 0; i < count; ++i) list[i] = (2 * i + 1) * layers / (2 * count);
    return list;
  }
  const int64_t first = spec.placement == Placement::kMiddle ? (layers - count) / 2
                        : spec.placement == Placement::kTop  ? layers - count
                                                             : 0;
  std::iota(list.begin(), list.end(), first);
  return list;
}

}  // namespace

HybridSpec HybridSpec::parse(std::string_view text) {
  HybridSpec spec;
  bool has_full = false, has_sparse = false;
  for (const std::string_view word : split(text, ' ')) {
    if (word.empty()) continue;
    if (word.starts_with("full=") && !has_full) {
      parse_full(word.substr(5), spec);
      has_full = true;
    } else if (word.starts_with("sparse=") && !has_sparse) {
      parse_sparse(word.substr(7), spec);
      has_sparse = true;
    } else {
      fail_usage(
          "hybrid: cannot read \"{}\"; write full=... sparse=..., for example "
          "\"full=middle:1/3 sparse=sink-window\"",
          word);
    }
  }
  if (!has_full) fail_usage("hybrid: \"{}\" does not say full=; {}", text, kFullHelp);
  if (!has_sparse) fail_usage("hybrid: \"{}\" does not say sparse=; {}", text, kSparseHelp);
  return spec;
}

std::vector<AttentionPattern> HybridSpec::resolve(int64_t num_layers, int64_t num_kv_heads) const {
  AttentionPattern pattern = sparse;
  if (offset_per_head) {
    if (pattern.stride == 0) fail_usage("hybrid: offset:heads needs stride:N");
    pattern.offsets.resize(static_cast<size_t>(num_kv_heads));
    for (int64_t h = 0; h < num_kv_heads; ++h)
      pattern.offsets[h] = h * pattern.stride / num_kv_heads;
  }
  try {
    pattern.validate(num_kv_heads);
  } catch (const Error& error) {
    fail_usage("hybrid: {}", error.what());
  }
  std::vector<AttentionPattern> layers(static_cast<size_t>(num_layers), pattern);
  for (const int64_t layer : full_layers(*this, num_layers)) {
    layers[layer] = AttentionPattern::full(pattern.block_size);
  }
  return layers;
}

}  // namespace longgen
