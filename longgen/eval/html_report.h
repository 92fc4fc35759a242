// The page of a run of `longgen eval`: one HTML file with everything in it, nothing fetched, for
// light and dark screens.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace longgen::eval {

// `run` is what results.json holds: "model", "longgen", "dtype", "backend", "complete", "results"
// (each task's to_json), "memory" {"weights_bytes", "kv_bytes_reserved", "workspace_bytes",
// "peak_resident_bytes"}, "settings" (name: value, shown in order) and "command". Strings may hold
// any bytes.
std::string to_html(const nlohmann::ordered_json& run);

}  // namespace longgen::eval
