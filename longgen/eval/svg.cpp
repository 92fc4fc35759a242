#include "longgen/eval/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "longgen/base/html.h"
#include "longgen/tokenizer/utf8.h"

namespace longgen::eval {
namespace {

std::string svg(double width, double height, std::string_view label, std::string_view parts) {
  return fmt::format(
      "<svg width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\" role=\"img\" "
      "aria-label=\"{2}\">{3}</svg>\n",
      width, height, html_text(label), parts);
}

std::string words(double x, double y, std::string_view anchor, std::string_view text,
                  std::string_view style = "axis") {
  return fmt::format("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>",
                     style, x, y, anchor, html_text(text));
}

std::string line(double x0, double y0, double x1, double y1, std::string_view style) {
  return fmt::format("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>",
                     style, x0, y0, x1, y1);
}

// The least of 1, 2 and 5 times a power of ten that cuts `range` into at most `parts`.
double nice_step(double range, int parts) {
  const double power = std::pow(10, std::floor(std::log10(range / parts)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power * parts >= range) return factor * power;
  }
  return 10 * power;
}

std::string cell_svg(const HeatMap::Cell& cell, double x, double y, double width, double height) {
  const double score = std::clamp(cell.score.value_or(0), 0.0, 1.0);
  std::string out = fmt::format("<g><title>{}</title>", html_text(cell.title));
  out += fmt::format(
      "<rect class=\"heat\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"2\" "
      "fill-opacity=\"{:.2f}\"/>",
      x, y, width - 2, height - 2, cell.score ? 0.08 + 0.92 * score : 0.0);
  // Words on half of the colour or more stand in the page's own colour.
  out += words(x + width / 2 - 1, y + height / 2 + 3, "middle",
               cell.score ? fmt::format("{:.0f}", 100 * score) : "–",
               score >= 0.55 ? "on-heat" : "off-heat");
  return out + "</g>";
}

}  // namespace

std::string html_text(std::string_view bytes) {
  std::string text;
  for (const char c : tokenizer::replace_invalid_utf8(bytes)) {
    const auto byte = static_cast<unsigned char>(c);
    const bool control = (byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f;
    text += control ? "\xef\xbf\xbd" : std::string(1, c);
  }
  return escape_html(text, "&quot;");
}

std::string draw(const HeatMap& map) {
  constexpr double kLeft = 92, kTop = 44, kWidth = 64, kHeight = 24;
  const double width = kWidth * static_cast<double>(map.columns.size());
  const double height = kHeight * static_cast<double>(map.rows.size());
  std::string out = words(kLeft + width / 2, 14, "middle", map.across, "label");
  out += words(kLeft - 10, kTop - 12, "end", map.down, "label");
  for (size_t j = 0; j < map.columns.size(); ++j) {
    out +=
        words(kLeft + kWidth * (static_cast<double>(j) + 0.5), kTop - 12, "middle", map.columns[j]);
  }
  for (size_t i = 0; i < map.rows.size(); ++i) {
    const double y = kTop + kHeight * static_cast<double>(i);
    out += words(kLeft - 10, y + kHeight / 2 + 3, "end", map.rows[i]);
    for (size_t j = 0; j < map.columns.size(); ++j) {
      const double x = kLeft + kWidth * static_cast<double>(j);
      out += cell_svg(map.cells[i][j], x, y, kWidth, kHeight);
    }
  }
  return svg(kLeft + width + 10, kTop + height + 6, map.across + " and " + map.down, out);
}

std::string draw(const LineChart& chart) {
  constexpr double kLeft = 64, kTop = 26, kHeight = 240, kStep = 68, kBelow = 48;
  if (chart.points.empty()) return "";
  double low = chart.points[0].low, high = chart.points[0].high;
  for (const LineChart::Point& p : chart.points) {
    low = std::min({low, p.low, p.value});
    high = std::max({high, p.high, p.value});
  }
  const double step = nice_step(std::max(high - low, std::abs(high) * 0.02 + 1e-9), 6);
  low = std::floor(low / step) * step;
  high = std::max(std::ceil(high / step) * step, low + step);
  const double width = kStep * static_cast<double>(chart.points.size());
  const auto at = [&](double value) { return kTop + (high - value) / (high - low) * kHeight; };
  std::string out = words(kLeft - 8, 12, "start", chart.up, "label");
  const int decimals = std::clamp(static_cast<int>(-std::floor(std::log10(step))), 0, 6);
  const auto ticks = static_cast<int>(std::lround((high - low) / step));
  for (int i = 0; i <= ticks; ++i) {
    const double value = low + step * i;
    out += line(kLeft, at(value), kLeft + width, at(value), "grid");
    out += words(kLeft - 8, at(value) + 4, "end", fmt::format("{:.{}f}", value, decimals));
  }
  std::string path, marks;
  for (size_t i = 0; i < chart.points.size(); ++i) {
    const LineChart::Point& p = chart.points[i];
    const double x = kLeft + kStep * (static_cast<double>(i) + 0.5);
    path += fmt::format("{:.1f},{:.1f} ", x, at(p.value));
    if (p.high > p.low) marks += line(x, at(p.low), x, at(p.high), "error");
    marks += fmt::format(
        "<g><title>{}</title><circle class=\"point\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\"/></g>",
        html_text(p.title), x, at(p.value));
    marks += words(x, kTop + kHeight + 18, "middle", p.name);
  }
  out += fmt::format("<polyline class=\"line\" points=\"{}\"/>{}", path, marks);
  out += words(kLeft + width / 2, kTop + kHeight + 40, "middle", chart.across, "label");
  return svg(kLeft + width + 10, kTop + kHeight + kBelow, chart.up + " by " + chart.across, out);
}

}  // namespace longgen::eval
