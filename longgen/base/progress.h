// Progress on stderr: one line redrawn in place on a terminal, plain lines now and then otherwise.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace longgen {

class Progress {
 public:
  // `unit` is what is counted: "tokens", "MB". `total` 0 means unknown.
  // `quiet` prints nothing (used under -q).
  Progress(std::string label, int64_t total, std::string unit, bool quiet = false);
  ~Progress();  // ends the line

  // `note` follows the bar, for example "loss 2.314".
  void update(int64_t done, std::string_view note = "");
  void finish(std::string_view note = "");
  // Ends the current line so that other text may be printed; the next update draws anew.
  void interrupt_line();

  double seconds() const;

 private:
  void draw(std::string_view note, bool last);
  std::string describe(std::string_view note, bool last, bool with_bar, bool with_rate) const;

  std::string label_, unit_;
  int64_t total_, done_ = 0;
  bool quiet_, terminal_, line_open_ = false, finished_ = false;
  std::chrono::steady_clock::time_point start_, last_draw_{};
};

}  // namespace longgen
