// Charts as SVG text, drawn for a page of formats/html.h, which holds their colours for light and dark. Every value of a chart
// is in the caller's hands: axis labels carry units, x is sorted.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace finback::formats {

// A line; long ones are thinned to what a screen can show, keeping every peak. NaN (and, on a log axis, y ≤ 0) is a gap.
struct Series {
  std::string name;  // written at the line's end with the last value
  std::vector<double> x, y;
  bool faint = false;  // pale and unlabelled, in the next series' colour: raw values behind their average
};

struct LineChart {
  std::string title;
  std::string x_label;  // "step"
  std::string y_label;  // "nats per token"
  std::vector<Series> series;
  bool log_y = false;
  bool from_zero = false;  // the y axis begins at 0
  std::string svg() const;
};

// Ratios over time on a logarithmic colour scale around 1, such as each expert's load divided by the even load: blue below,
// grey at 1, orange above. Rows come in named groups (layers).
struct HeatMap {
  std::string title;
  std::string x_label;
  std::string scale_label;  // "× the even load"
  struct Group {
    std::string name;
    std::int64_t rows = 0;
  };
  std::vector<Group> groups;
  std::vector<double> x;      // of each column
  std::vector<float> values;  // [columns][rows of all groups], one column after the other; NaN: unknown
  std::string svg() const;
};

}  // namespace finback::formats
