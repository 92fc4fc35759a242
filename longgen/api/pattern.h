// What is behind the public Pattern.
#pragma once

#include "include/longgen/pattern.h"
#include "longgen/pattern/pattern.h"

namespace longgen {

struct Pattern::Impl {
  AttentionPattern pattern;
};

}  // namespace longgen
