#include <nlohmann/json.hpp>
#include <vector>

#include "tests/fuzz/mutate_parts.h"
#include "tests/fuzz/target.h"

namespace longgen::fuzz {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxNodes = 4096;

std::vector<Json*> nodes_of(Json& root) {
  std::vector<Json*> nodes = {&root};
  for (size_t i = 0; i < nodes.size() && nodes.size() < kMaxNodes; ++i) {
    if (!nodes[i]->is_structured()) continue;
    for (Json& child : *nodes[i]) nodes.push_back(&child);
  }
  return nodes;
}

Json odd_value(Draws& draw) {
  static const Json kValues = {nullptr,
                               true,
                               false,
                               0,
                               -1,
                               1,
                               2,
                               16,
                               64,
                               2147483647,
                               int64_t{1} << 31,
                               int64_t{1} << 53,
                               INT64_MAX,
                               INT64_MIN,
                               UINT64_MAX,
                               0.5,
                               -0.0,
                               1e-300,
                               1e19,
                               1e308,
                               "",
                               "\xC3\xA9",
                               "(a+)+$",
                               "[^",
                               std::string(1, '\0'),
                               Json::array(),
                               Json::object(),
                               Json::array({Json::array(), Json::object()})};
  return kValues[draw.below(kValues.size())];
}

void remove_child(Json& node, Draws& draw) {
  if (!node.is_structured() || node.empty()) return;
  const auto at = std::next(node.begin(), static_cast<int64_t>(draw.below(node.size())));
  node.erase(at);
}

// A child of `node` once more, or a value under a key that another object has.
void add_child(Json& node, const std::vector<Json*>& nodes, Draws& draw) {
  const Json& other = *nodes[draw.below(nodes.size())];
  if (node.is_array()) {
    node.push_back(node.empty() || draw.one_in(2) ? Json(other)
                                                  : Json(node[draw.below(node.size())]));
  } else if (node.is_object() && other.is_object() && !other.empty()) {
    const auto at = std::next(other.begin(), static_cast<int64_t>(draw.below(other.size())));
    const std::string key = at.key();
    const Json value = draw.one_in(2) ? at.value() : odd_value(draw);
    node[key] = value;
  }
}

void tweak_scalar(Json& node, size_t max_size, Draws& draw, const MutateBytes& mutate_bytes) {
  if (node.is_string()) {
    node = mutate_bytes(node.get<std::string>(), std::min<size_t>(max_size, 256));
  } else if (node.is_number_integer()) {
    const auto value = node.get<uint64_t>();
    const uint64_t changed[] = {value + 1, value - 1, value * 2, 0 - value, value << 32};
    node = static_cast<int64_t>(changed[draw.below(std::size(changed))]);
  } else if (node.is_number_float()) {
    node = node.get<double>() * (draw.one_in(2) ? -1 : 1e6);
  } else {
    node = odd_value(draw);
  }
}

std::string mutate_value(Json& root, size_t max_size, Draws& draw,
                         const MutateBytes& mutate_bytes) {
  const auto nodes = nodes_of(root);
  Json& node = *nodes[draw.below(nodes.size())];
  switch (draw.below(6)) {
    case 0:
      node = odd_value(draw);
      break;
    case 1: {
      const Json copy = *nodes[draw.below(nodes.size())];  // it may hold `node`, or lie in it
      node = copy;
      break;
    }
    case 2:
      remove_child(node, draw);
      break;
    case 3:
      add_child(node, nodes, draw);
      break;
    default:
      tweak_scalar(node, max_size, draw, mutate_bytes);
  }
  return root.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string mutate_part(std::string_view part, size_t max_size, Draws& draw,
                        const MutateBytes& mutate_bytes) {
  if (!draw.one_in(5)) {
    Json root = Json::parse(part, nullptr, false);
    if (!root.is_discarded()) {
      std::string text = mutate_value(root, max_size, draw, mutate_bytes);
      if (text.size() <= max_size) return text;
    }
  }
  return mutate_bytes(std::string(part), max_size);
}

}  // namespace

std::string mutate_json(std::string_view bytes, size_t max_size, uint32_t seed,
                        const MutateBytes& mutate_bytes) {
  Draws draw(seed);
  return change_parts(split_parts(bytes), max_size, draw,
                      [&](size_t, std::string_view part, size_t room) {
                        return mutate_part(part, room, draw, mutate_bytes);
                      });
}

}  // namespace longgen::fuzz
