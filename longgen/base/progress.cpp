#include "longgen/base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "longgen/base/terminal.h"
#include "longgen/base/units.h"

namespace longgen {
namespace {

constexpr double kTerminalInterval = 0.1;  // seconds between redraws
constexpr double kPlainInterval = 10;

int terminal_width() {
  const int columns = terminal_columns(STDERR_FILENO);
  return columns > 0 ? columns : 80;
}

}  // namespace

Progress::Progress(std::string label, int64_t total, std::string unit, bool quiet)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      quiet_(quiet),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()),
      last_draw_(start_) {}

Progress::~Progress() { interrupt_line(); }

double Progress::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void Progress::update(int64_t done, std::string_view note) {
  done_ = done;
  const auto now = std::chrono::steady_clock::now();
  const double since = std::chrono::duration<double>(now - last_draw_).count();
  if (quiet_ || since < (terminal_ ? kTerminalInterval : kPlainInterval)) return;
  last_draw_ = now;
  draw(note, false);
}

void Progress::finish(std::string_view note) {
  if (finished_) return;
  finished_ = true;
  if (total_ > 0) done_ = total_;
  if (!quiet_) draw(note, true);
  interrupt_line();
}

void Progress::interrupt_line() {
  if (line_open_) std::fputc('\n', stderr);
  line_open_ = false;
}

// On a narrow terminal the bar goes first, then the rate: the note says more.
void Progress::draw(std::string_view note, bool last) {
  if (!terminal_) {
    fmt::print(stderr, "{}\n", describe(note, last, true, true));
  } else {
    const auto width = static_cast<size_t>(terminal_width() - 1);
    std::string line = describe(note, last, true, true);
    if (line.size() > width) line = describe(note, last, false, true);
    if (line.size() > width && !note.empty()) line = describe(note, last, false, false);
    line.resize(std::min(line.size(), width));
    fmt::print(stderr, "\r\033[K{}", line);
    line_open_ = true;
  }
  std::fflush(stderr);
}

std::string Progress::describe(std::string_view note, bool last, bool with_bar,
                               bool with_rate) const {
  const double elapsed = seconds();
  const double rate = elapsed > 0 ? static_cast<double>(done_) / elapsed : 0;
  std::string line = label_;
  if (total_ > 0) {
    const double share = static_cast<double>(done_) / static_cast<double>(total_);
    constexpr int kBar = 20;
    const int filled = std::clamp(static_cast<int>(share * kBar), 0, kBar);
    if (with_bar) line += fmt::format(" [{:#<{}}{:.<{}}]", "", filled, "", kBar - filled);
    line += fmt::format(" {:3.0f}%", 100 * share);
  }
  line += fmt::format(" {} {}", done_, unit_);
  if (with_rate && done_ > 0) line += fmt::format(", {} {}/s", format_si(rate), unit_);
  if (last) {
    line += fmt::format(", {}", format_duration(elapsed));
  } else if (total_ > 0 && rate > 0) {
    line += fmt::format(", {} left", format_duration(static_cast<double>(total_ - done_) / rate));
  }
  if (!note.empty()) line += fmt::format(", {}", note);
  return line;
}

}  // namespace longgen
