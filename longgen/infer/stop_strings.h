// Ends a text at the first stop string, without ever showing a part of it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace longgen::infer {

class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops);

  // Takes the next piece of text; returns what may be shown now. Text that could be the beginning
  // of a stop string waits. After stopped() nothing more is shown.
  std::string push(std::string_view piece);
  // What still waits, once no more text comes.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace longgen::infer
