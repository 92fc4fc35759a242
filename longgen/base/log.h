// Talk goes to stderr; data goes to stdout and never through here.
#pragma once

#include <spdlog/spdlog.h>

namespace longgen {

// verbosity: -1 warnings only, 0 normal, 1 debug. The last call counts.
void set_up_logging(int verbosity);

using spdlog::debug;
using spdlog::info;
using spdlog::warn;

}  // namespace longgen
