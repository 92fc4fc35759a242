#include "tests/fuzz/mutate_parts.h"

#include <algorithm>

namespace longgen::fuzz {

std::vector<std::string> split_parts(std::string_view bytes) {
  std::vector<std::string> parts;
  do {
    parts.emplace_back(next_part(bytes));
  } while (!bytes.empty());
  return parts;
}

std::string join_parts(const std::vector<std::string>& parts) {
  std::string all = parts[0];
  for (size_t i = 1; i < parts.size(); ++i) all.append(kNextFile).append(parts[i]);
  return all;
}

std::string change_parts(std::vector<std::string> parts, size_t max_size, Draws& draw,
                         const ChangePart& change) {
  const size_t index = draw.below(parts.size());
  std::string& chosen = parts[index];
  const size_t others = join_parts(parts).size() - chosen.size();
  if (others >= max_size) return change(0, parts[0], max_size);
  chosen = change(index, chosen, max_size - others);
  std::string all = join_parts(parts);
  if (all.size() > max_size) all.resize(max_size);
  return all;
}

// The parts of a model: one changes, or they are other parts, in another order.
std::string mutate_gguf_parts(std::string_view bytes, size_t max_size, uint32_t seed,
                              const MutateBytes& mutate_bytes) {
  Draws draw(seed);
  std::vector<std::string> parts = split_parts(bytes);
  const size_t a = draw.below(parts.size()), b = draw.below(parts.size());
  switch (draw.below(24)) {
    case 0:
      std::swap(parts[a], parts[b]);
      break;
    case 1:
      parts.push_back(parts[a]);
      break;
    case 2:
      if (parts.size() > 1) parts.pop_back();
      break;
    default:
      break;
  }
  return change_parts(std::move(parts), max_size, draw,
                      [&](size_t, std::string_view part, size_t room) {
                        const auto next = static_cast<uint32_t>(draw.below(UINT32_MAX));
                        return mutate_gguf(part, room, next, mutate_bytes);
                      });
}

std::string mutate_model_directory(std::string_view bytes, size_t max_size, uint32_t seed,
                                   const MutateBytes& mutate_bytes) {
  constexpr size_t kFirstWeights = 4;  // run_model_directory has the order
  Draws draw(seed);
  return change_parts(
      split_parts(bytes), max_size, draw, [&](size_t index, std::string_view part, size_t room) {
        const auto next = static_cast<uint32_t>(draw.below(UINT32_MAX));
        return index < kFirstWeights ? mutate_json(part, room, next, mutate_bytes)
                                     : mutate_safetensors(part, room, next, mutate_bytes);
      });
}

}  // namespace longgen::fuzz
