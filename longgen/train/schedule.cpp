#include "longgen/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "longgen/base/error.h"

namespace longgen::train {

ScheduleKind parse_schedule(std::string_view name) {
  if (name == "cosine") return ScheduleKind::kCosine;
  if (name == "constant") return ScheduleKind::kConstant;
  fail_usage("train.schedule: '{}' is neither cosine nor constant", name);
}

double Schedule::at(int64_t step) const {
  if (step < warmup_steps) {
    return lr * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  }
  if (kind == ScheduleKind::kConstant) return lr;
  const int64_t span = std::max<int64_t>(1, steps - warmup_steps);
  const double done = std::min(1.0, static_cast<double>(step - warmup_steps) / span);
  return lr * (min_lr + (1 - min_lr) * 0.5 * (1 + std::cos(std::numbers::pi * done)));
}

}  // namespace longgen::train
