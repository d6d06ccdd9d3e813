// A page in Markdown with pictures beside it, and numbers for people.
#pragma once

#include "formats/chart.h"

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

namespace finback::studies {

struct Document {
  std::string name, text;
};

// "−0.125": so many digits after the point, a proper minus sign; with `sign` a plus too.
std::string number(double value, int digits, bool sign = false);
std::string percent(double ratio, int digits = 3);  // "+0.125 %", of 0.00125
std::string thousands(double value);                // "3,072,000"; value ≥ 0

class Markdown {
 public:
  explicit Markdown(std::string beginning) : page_(std::move(beginning)) {}

  void heading(std::string_view text);
  // Lines are broken at spaces.
  template <class... A>
  void paragraph(fmt::format_string<A...> f, A&&... a) {
    add_paragraph(fmt::format(f, std::forward<A>(a)...));
  }
  // The first column is text, the others are aligned right.
  void table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows);
  void picture(const std::string& name, const formats::LineChart& chart);  // name.svg

  // The page under its name, and its pictures.
  std::vector<Document> take(const std::string& name);

 private:
  void add_paragraph(std::string_view text);
  std::string page_;
  std::vector<Document> pictures_;
};

}  // namespace finback::studies
