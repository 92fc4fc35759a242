#include "longgen/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

namespace longgen {

void set_up_logging(int verbosity) {
  auto logger = spdlog::get("longgen");
  if (logger == nullptr) logger = spdlog::stderr_color_mt("longgen");
  logger->set_pattern("%^%v%$");
  logger->set_level(verbosity < 0   ? spdlog::level::warn
                    : verbosity > 0 ? spdlog::level::debug
                                    : spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace longgen
