// Pictures of the report, as SVG within HTML. Colours are classes, so that the page's style sheet
// gives them for light and for dark.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace longgen::eval {

// Any bytes as text of HTML, in and outside of attributes: markup and quotes escaped; what is no
// UTF-8, and control characters but line ends and tabs, are U+FFFD.
std::string html_text(std::string_view bytes);

struct HeatMap {
  struct Cell {
    std::optional<double> score;  // in [0, 1]; none: nothing was measured
    std::string title;            // what a pointer over it shows
  };
  std::string across, down;  // what columns and rows are
  std::vector<std::string> columns, rows;
  std::vector<std::vector<Cell>> cells;  // [rows][columns]
};
// Cells show percent; the more, the more colour.
std::string draw(const HeatMap& map);

struct LineChart {
  struct Point {
    std::string name;          // below the axis
    double value = 0;          // finite
    double low = 0, high = 0;  // the bar through it; both equal to value: none
    std::string title;
  };
  std::string across, up;     // what the axes are
  std::vector<Point> points;  // evenly spaced
};
std::string draw(const LineChart& chart);

}  // namespace longgen::eval
