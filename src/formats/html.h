// A page that stands alone: one HTML file without scripts or anything from outside, light or dark as the reader's system is, readable
// on a phone. Text is escaped here; callers give plain text.
#pragma once

#include "formats/chart.h"

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace finback::formats {

std::string escape_html(std::string_view text);

struct KeyFigure {
  std::string label;  // "validation loss"
  std::string value;  // "1.523"
  std::string unit;   // "nats per character"; may be empty
};

class Page {
 public:
  explicit Page(std::string title, std::string subtitle = {});

  void heading(std::string_view text);
  void paragraph(std::string_view text);
  void key_figures(std::span<const KeyFigure> figures);
  // The first column is text, the others are aligned right. Rows may not be longer than the header.
  void table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows);
  void code(std::string_view text);
  // Charts that follow one another stand side by side where there is room.
  void add(const LineChart& chart);
  void add(const HeatMap& chart);

  // The whole file. With refresh_seconds > 0 a browser reads it again as often: for a run that goes on.
  std::string html(int refresh_seconds = 0) const;

 private:
  void figure(const std::string& title, const std::string& note, const std::string& svg);
  void end_charts();

  std::string title_, subtitle_, body_;
  bool in_charts_ = false;
};

// A chart as a file of its own, an SVG with its title and its colours for light and dark: a picture beside a text.
std::string picture(const LineChart& chart);

}  // namespace finback::formats
