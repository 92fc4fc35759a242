// The learning rate of a step.
#pragma once

#include <cstdint>
#include <string_view>

namespace longgen::train {

enum class ScheduleKind : uint8_t { kCosine, kConstant };

ScheduleKind parse_schedule(std::string_view name);  // throws UsageError

struct Schedule {
  ScheduleKind kind = ScheduleKind::kCosine;
  double lr = 0;
  double min_lr = 0.1;  // where the cosine ends, as a share of lr
  int64_t warmup_steps = 0;
  int64_t steps = 1;

  // Step 0 is the first. Warm-up rises in equal parts and reaches lr at its last step; the cosine
  // (Loshchilov and Hutter, arXiv 1608.03983) falls from there and reaches min_lr * lr at step
  // `steps`, the first that is not run.
  double at(int64_t step) const;
};

}  // namespace longgen::train
