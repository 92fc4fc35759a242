// What the tests of config.json share: the tiny model's, changed and read.
#pragma once

#include <string>

#include "formats_testing.h"
#include "longgen/formats/hf_config.h"

namespace longgen::formats {

using TestJson = longgen::testing::Json;

inline HfConfig read(const TestJson& json) {
  return read_hf_config(Json::parse(json.dump()), "c.json");
}
inline std::string read_error(const TestJson& json) {
  return longgen::testing::error_of([&] { read(json); });
}
inline TestJson with(const std::string& key, const TestJson& value) {
  TestJson json = longgen::testing::tiny_config_json();
  json[key] = value;
  return json;
}

}  // namespace longgen::formats
