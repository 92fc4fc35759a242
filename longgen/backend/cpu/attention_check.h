// The cpu backend's argument checks of attention.
#pragma once

#include "longgen/backend/attention_checks.h"

namespace longgen::cpu {

inline AttentionChecks attention_checks() { return {"cpu", Device::kHost}; }

}  // namespace longgen::cpu
