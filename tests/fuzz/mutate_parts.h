// Inputs that stand for several files (kNextFile).
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/fuzz/target.h"

namespace longgen::fuzz {

std::vector<std::string> split_parts(std::string_view bytes);
std::string join_parts(const std::vector<std::string>& parts);

// One part, drawn, becomes change(its index, the part, the bytes it may have); all together keep to
// `max_size`.
using ChangePart = std::function<std::string(size_t index, std::string_view part, size_t room)>;
std::string change_parts(std::vector<std::string> parts, size_t max_size, Draws& draw,
                         const ChangePart& change);

}  // namespace longgen::fuzz
