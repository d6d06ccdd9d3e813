#include "studies/markdown.h"

#include "formats/html.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

namespace finback::studies {

std::string number(double value, int digits, bool sign) {
  return fmt::format("{}{:.{}f}", value < 0 ? "−" : sign ? "+" : "", std::abs(value), digits);
}

std::string percent(double ratio, int digits) { return number(100 * ratio, digits, true) + " %"; }

std::string thousands(double value) {
  const std::string digits = fmt::format("{:.0f}", value);
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

void Markdown::heading(std::string_view text) { page_ += fmt::format("## {}\n\n", text); }

void Markdown::add_paragraph(std::string_view text) {
  constexpr std::size_t kWidth = 130;  // bytes a line
  for (std::size_t line = 0; !text.empty();) {
    const std::size_t word = std::min(text.find(' '), text.size());
    if (line > 0) page_ += line + 1 + word > kWidth ? (line = 0, '\n') : ' ';
    page_ += text.substr(0, word);
    line += word + 1;
    text.remove_prefix(std::min(word + 1, text.size()));
  }
  page_ += "\n\n";
}

void Markdown::table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows) {
  page_ += fmt::format("| {} |\n| --- |", fmt::join(header, " | "));
  for (std::size_t i = 1; i < header.size(); ++i) page_ += " ---: |";
  for (const auto& row : rows) page_ += fmt::format("\n| {} |", fmt::join(row, " | "));
  page_ += "\n\n";
}

void Markdown::picture(const std::string& name, const formats::LineChart& chart) {
  page_ += fmt::format("![{}, {}]({}.svg)\n\n", chart.title, chart.y_label, name);
  pictures_.push_back({name + ".svg", formats::picture(chart)});
}

std::vector<Document> Markdown::take(const std::string& name) {
  while (page_.ends_with("\n\n")) page_.pop_back();
  pictures_.insert(pictures_.begin(), {name, std::move(page_)});
  return std::move(pictures_);
}

}  // namespace finback::studies
