#include "formats/chart.h"

#include "core/error.h"
#include "formats/axis.h"
#include "formats/html.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>

namespace finback::formats {
namespace {

// Units of the viewBox. A page shows it at about this size on a screen and at three quarters on a phone, where 13 is still legible.
constexpr double kWidth = 480, kHeight = 270, kFont = 13;
constexpr double kTop = 10, kBottom = 38;
constexpr int kColours = 6;

// Text's width without a font at hand: a little over the mean of proportional fonts.
double text_width(std::string_view text) {
  const auto letters = std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
  return 0.56 * kFont * static_cast<double>(letters);
}

std::string svg_open(std::string_view title, double height) {
  return fmt::format(R"(<svg viewBox="0 0 {} {:g}" role="img" aria-label="{}">)", kWidth, height, escape_html(title)) + "\n";
}

struct Point {
  double x, y;
};

// Of the points in each of `buckets` equal parts of the x range only the first, lowest, highest and last are kept: the line looks the
// same. Points are in plot coordinates; NaN y ends a run.
std::vector<Point> thin(const std::vector<Point>& points, int buckets, double width) {
  if (points.size() <= static_cast<std::size_t>(4 * buckets)) return points;
  std::vector<Point> out;
  const auto bucket_of = [&](const Point& p) { return static_cast<int>(p.x / width * buckets); };
  for (std::size_t begin = 0; begin < points.size();) {
    std::size_t end = begin;
    const bool gap = std::isnan(points[begin].y);
    while (end < points.size() && bucket_of(points[end]) == bucket_of(points[begin]) && std::isnan(points[end].y) == gap) ++end;
    std::size_t low = begin, high = begin;
    for (std::size_t i = begin; i < end; ++i) {
      if (points[i].y < points[low].y) low = i;
      if (points[i].y > points[high].y) high = i;
    }
    std::array<std::size_t, 4> keep{begin, std::min(low, high), std::max(low, high), end - 1};
    for (std::size_t k = 0; k < keep.size(); ++k)
      if (k == 0 || keep[k] != keep[k - 1]) out.push_back(points[keep[k]]);
    begin = end;
  }
  return out;
}

// A path in tenths of a unit; a run of one point becomes a dot.
std::string path_of(const std::vector<Point>& points, double left, double top) {
  std::string d;
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (std::isnan(points[i].y)) continue;
    const bool starts = i == 0 || std::isnan(points[i - 1].y);
    const bool ends = i + 1 == points.size() || std::isnan(points[i + 1].y);
    d += fmt::format("{}{:.1f} {:.1f}", starts ? "M" : "L", left + points[i].x, top + points[i].y);
    if (starts && ends) d += "h.1";
  }
  return d;
}

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  void add(double v) {
    low = std::min(low, v);
    high = std::max(high, v);
  }
  bool empty() const { return low > high; }
};

// Labels at the lines' ends, moved apart so that none overlaps another, in the order of their lines.
struct EndLabel {
  double y;
  std::string text;
  int colour;
};

void spread(std::vector<EndLabel>& labels, double top, double bottom) {
  constexpr double kGap = kFont + 2;
  std::sort(labels.begin(), labels.end(), [](const EndLabel& a, const EndLabel& b) { return a.y < b.y; });
  double free = top;
  for (EndLabel& l : labels) free = (l.y = std::max(l.y, free)) + kGap;
  free = bottom;
  for (auto l = labels.rbegin(); l != labels.rend(); ++l) free = (l->y = std::min(l->y, free)) - kGap;
}

}  // namespace

std::string LineChart::svg() const {
  Range xs, ys;
  const auto shown = [&](double y) { return std::isfinite(y) && (!log_y || y > 0); };
  for (const Series& s : series) {
    FB_CHECK(s.x.size() == s.y.size(), "{}: {} and {}", s.name, s.x.size(), s.y.size());
    for (std::size_t i = 0; i < s.x.size(); ++i) {
      if (!shown(s.y[i])) continue;
      xs.add(s.x[i]);
      ys.add(s.y[i]);
    }
  }
  std::string out = svg_open(title, kHeight);
  if (xs.empty())
    return out +
           fmt::format(R"(<text class="label" x="{:g}" y="{:g}" text-anchor="middle">no data yet</text></svg>)", kWidth / 2, kHeight / 2);
  if (from_zero) ys.add(0);
  const Axis y_axis = log_y ? log_axis(ys.low, ys.high, 5) : linear_axis(ys.low, ys.high, 5, /*round_out=*/true);
  const Axis x_axis = linear_axis(xs.low, xs.high, 5, /*round_out=*/false);

  // Margins: the widest y label left, the widest end label right.
  double left = 0, right = 0;
  for (const Tick& t : y_axis.ticks) left = std::max(left, text_width(t.label));
  left += 8;
  std::vector<EndLabel> labels;
  int colour = 0;
  for (const Series& s : series) {
    if (s.faint) continue;
    auto last = s.y.size();
    while (last > 0 && !shown(s.y[last - 1])) --last;
    if (last > 0 && !s.name.empty()) labels.push_back({s.y[last - 1], fmt::format("{} {}", s.name, short_number(s.y[last - 1])), colour});
    ++colour;
  }
  for (const EndLabel& l : labels) right = std::max(right, text_width(l.text));
  right = labels.empty() ? 14 : right + 10;
  const double width = kWidth - left - right, height = kHeight - kTop - kBottom, bottom = kTop + height;
  const auto x_of = [&](double x) { return x_axis.position(x) * width; };
  const auto y_of = [&](double y) { return (1 - y_axis.position(y)) * height; };

  for (const Tick& t : y_axis.ticks) {
    const double y = kTop + y_of(t.value);
    out +=
        fmt::format(R"(<path class="grid" d="M{:.1f} {:.1f}h{:.1f}"/><text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>)",
                    left, y, width, left - 6, y + 4, t.label) +
        "\n";
  }
  for (const Tick& t : x_axis.ticks) {
    const double x = left + x_of(t.value);
    out += fmt::format(
               R"(<path class="axis" d="M{0:.1f} {1:.1f}v4"/><text class="tick" x="{0:.1f}" y="{2:.1f}" text-anchor="middle">{3}</text>)",
               x, bottom, bottom + 17, t.label) +
           "\n";
  }
  out += fmt::format(R"(<path class="axis" d="M{:.1f} {:.1f}h{:.1f}"/>)", left, bottom, width);
  out += fmt::format(R"(<text class="label" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>)", left + width / 2, kHeight - 5,
                     escape_html(x_label)) +
         "\n";

  colour = 0;
  for (const Series& s : series) {
    std::vector<Point> points;
    points.reserve(s.x.size());
    for (std::size_t i = 0; i < s.x.size(); ++i) points.push_back({x_of(s.x[i]), shown(s.y[i]) ? y_of(s.y[i]) : NAN});
    out += fmt::format(R"(<path class="line{} s{}" d="{}"/>)", s.faint ? " faint" : "", colour % kColours,
                       path_of(thin(points, static_cast<int>(width), width), left, kTop)) +
           "\n";
    if (!s.faint) ++colour;
  }
  for (EndLabel& l : labels) l.y = kTop + y_of(l.y) + 4;
  spread(labels, kTop + 4, bottom);
  for (const EndLabel& l : labels)
    out += fmt::format(R"(<text class="end s{}" x="{:.1f}" y="{:.1f}">{}</text>)", l.colour % kColours, left + width + 6, l.y,
                       escape_html(l.text)) +
           "\n";
  return out + "</svg>";
}

// ---- heat map

namespace {

// Steps of the colour scale: 2^-3 … 2^3 by half powers of two, 1 in the middle.
constexpr int kLevels = 13, kMiddle = kLevels / 2;
constexpr std::int64_t kMaxColumns = 120, kMaxRows = 480;

int level_of(double ratio) {
  if (!(ratio > 0)) return 0;  // no load at all
  return std::clamp(static_cast<int>(std::lround(2 * std::log2(ratio))) + kMiddle, 0, kLevels - 1);
}

}  // namespace

std::string HeatMap::svg() const {
  std::int64_t rows = 0;
  for (const Group& g : groups) rows += g.rows;
  const auto columns = static_cast<std::int64_t>(x.size());
  FB_CHECK(static_cast<std::int64_t>(values.size()) == rows * columns, "{} values, {} rows, {} columns", values.size(), rows, columns);

  double left = 0;
  for (const Group& g : groups) left = std::max(left, text_width(g.name));
  left += 8;
  const double width = kWidth - left - 14;
  const double row_height = std::clamp(360.0 / static_cast<double>(std::max<std::int64_t>(rows, 1)), 0.75, 6.0), group_gap = 4;
  const double map_height = static_cast<double>(rows) * row_height + group_gap * static_cast<double>(groups.size());
  const double bottom = kTop + map_height, total = bottom + 84;
  std::string out = svg_open(title, total);
  if (rows == 0 || columns == 0)
    return out +
           fmt::format(R"(<text class="label" x="{:g}" y="{:g}" text-anchor="middle">no data yet</text></svg>)", kWidth / 2, total / 2);

  // Columns are averaged in bins; of the rows that share one line of the picture the fullest is shown.
  const std::int64_t bins = std::min(columns, kMaxColumns), pool = (rows + kMaxRows - 1) / kMaxRows;
  std::array<std::string, kLevels> paths;
  double y = kTop;
  std::int64_t first_row = 0;
  const double cell = width / static_cast<double>(bins);
  for (const Group& g : groups) {
    const double group_top = y;
    for (std::int64_t r = 0; r < g.rows; r += pool) {
      const std::int64_t pooled = std::min(pool, g.rows - r);
      const double h = static_cast<double>(pooled) * row_height;
      int run_level = -1;
      std::int64_t run_begin = 0;
      const auto flush = [&](std::int64_t end) {
        if (run_level >= 0)
          paths[static_cast<std::size_t>(run_level)] +=
              fmt::format("M{:.1f} {:.2f}h{:.1f}v{:.2f}h-{:.1f}z", left + static_cast<double>(run_begin) * cell, y,
                          static_cast<double>(end - run_begin) * cell, h, static_cast<double>(end - run_begin) * cell);
      };
      for (std::int64_t b = 0; b < bins; ++b) {
        double fullest = NAN;
        for (std::int64_t k = 0; k < pooled; ++k) {
          double sum = 0;
          const std::int64_t begin = b * columns / bins, end = (b + 1) * columns / bins;
          for (std::int64_t c = begin; c < end; ++c)
            sum += static_cast<double>(values[static_cast<std::size_t>(c * rows + first_row + r + k)]);
          const double mean = sum / static_cast<double>(end - begin);
          if (!(mean <= fullest)) fullest = mean;
        }
        const int level = std::isnan(fullest) ? -1 : level_of(fullest);
        if (level == run_level) continue;
        flush(b);
        run_level = level;
        run_begin = b;
      }
      flush(bins);
      y += h;
    }
    if (y - group_top >= 8 || &g == &groups.front())
      out += fmt::format(R"(<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>)", left - 6, (group_top + y) / 2 + 4,
                         escape_html(g.name)) +
             "\n";
    first_row += g.rows;
    y += group_gap;
  }
  for (int l = 0; l < kLevels; ++l)
    if (!paths[static_cast<std::size_t>(l)].empty())
      out += fmt::format(R"(<path class="h{}" d="{}"/>)", l, paths[static_cast<std::size_t>(l)]) + "\n";

  // A column stands for the time up to it, so that the axis runs from the first to the last.
  const Axis axis = linear_axis(x.front(), x.back(), 5, /*round_out=*/false);
  for (const Tick& t : axis.ticks) {
    const double at = left + axis.position(t.value) * width;
    out += fmt::format(
               R"(<path class="axis" d="M{0:.1f} {1:.1f}v4"/><text class="tick" x="{0:.1f}" y="{2:.1f}" text-anchor="middle">{3}</text>)",
               at, bottom, bottom + 17, t.label) +
           "\n";
  }
  out += fmt::format(R"(<text class="label" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>)", left + width / 2, bottom + 33,
                     escape_html(x_label)) +
         "\n";

  // The scale.
  const double swatch = 16, legend_y = bottom + 52, legend_x = left;
  constexpr std::pair<int, const char*> kMarks[] = {{0, "⅛"}, {2, "¼"}, {4, "½"}, {6, "1"}, {8, "2"}, {10, "4"}, {12, "8"}};
  for (int l = 0; l < kLevels; ++l)
    out += fmt::format(R"(<path class="h{}" d="M{:.1f} {:.1f}h{:g}v9h-{:g}z"/>)", l, legend_x + l * swatch, legend_y, swatch, swatch);
  for (const auto& [l, text] : kMarks)
    out += fmt::format(R"(<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>)", legend_x + (l + 0.5) * swatch,
                       legend_y + 23, text);
  out += fmt::format(
      "\n"
      R"(<text class="label" x="{:.1f}" y="{:.1f}">{}</text>)",
      legend_x + kLevels * swatch + 8, legend_y + 9, escape_html(scale_label));
  return out + "\n</svg>";
}

}  // namespace finback::formats
