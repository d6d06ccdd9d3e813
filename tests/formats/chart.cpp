#include "formats/chart.h"

#include "formats/axis.h"
#include "formats/html.h"

#include <gtest/gtest.h>

#include <cmath>
#include <regex>

namespace finback::formats {
namespace {

std::vector<std::string> labels(const Axis& axis) {
  std::vector<std::string> out;
  for (const Tick& t : axis.ticks) out.push_back(t.label);
  return out;
}
using Labels = std::vector<std::string>;

TEST(Axis, TicksAreRoundAndCoverTheData) {
  EXPECT_EQ(labels(linear_axis(0.3, 9.4, 5, true)), (Labels{"0", "2", "4", "6", "8", "10"}));
  EXPECT_EQ(labels(linear_axis(-0.07, 0.22, 5, true)), (Labels{"−0.1", "0", "0.1", "0.2", "0.3"}));
  EXPECT_EQ(labels(linear_axis(0, 24300, 5, true)), (Labels{"0", "5k", "10k", "15k", "20k", "25k"}));
  EXPECT_EQ(labels(linear_axis(7, 7, 5, false)).empty(), false);
  EXPECT_LE(linear_axis(5.560373991727828, 5.560373991727829, 5, true).ticks.size(), 12u);  // a mean of equal losses
  EXPECT_EQ(labels(log_axis(1.5, 9, 5)), (Labels{"1", "2", "5", "10"}));
  EXPECT_EQ(labels(log_axis(2e-5, 3e3, 5)), (Labels{"0.001", "0.1", "10", "1000"}));
  for (double low = 1e-7; low < 1e7; low *= 3.7)
    for (double span = 1.001; span < 1e9; span *= 2.3) {
      const Axis linear = linear_axis(low, low * span, 5, true), log = log_axis(low, low * span, 5);
      for (const Axis& a : {linear, log}) {
        EXPECT_LE(a.low, low * 1.0001) << low << " " << span;
        EXPECT_GE(a.high, low * span * 0.9999);
        EXPECT_GE(a.ticks.size(), 2u) << low << " " << span << (a.log ? " log" : "");
        EXPECT_LE(a.ticks.size(), 12u) << low << " " << span << (a.log ? " log" : "");
        for (std::size_t i = 1; i < a.ticks.size(); ++i) EXPECT_NE(a.ticks[i].label, a.ticks[i - 1].label) << low << " " << span;
      }
    }
}

TEST(Axis, NumbersAreShort) {
  const std::pair<double, const char*> cases[] = {{0, "0"},         {1.5231, "1.523"},  {24112, "24.1k"},    {9999, "9999"},
                                                  {1e6, "1M"},      {671.03e9, "671B"}, {2e-5, "2e-5"},      {0.002, "0.002"},
                                                  {-3.25, "−3.25"}, {99999, "100k"},    {123.456, "123.5"},  {1e-4, "0.0001"},
                                                  {NAN, "–"},       {1234567, "1.23M"}, {9.999e-5, "0.0001"}};
  for (const auto& [value, text] : cases) EXPECT_EQ(short_number(value), text);
}

int count(const std::string& text, std::string_view what) {
  int n = 0;
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

// Every element is closed in order: what a strict parser would ask.
void expect_well_formed(const std::string& text) {
  std::vector<std::string> open;
  for (auto at = text.find('<'); at != std::string::npos; at = text.find('<', at + 1)) {
    const bool closes = text[at + 1] == '/';
    const auto name_begin = at + (closes ? 2 : 1);
    const auto name_end = text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789", name_begin);
    const std::string name = text.substr(name_begin, name_end - name_begin);
    if (name.empty()) continue;  // <!doctype …
    auto end = name_end;
    for (bool quoted = false; quoted || text[end] != '>'; ++end) {
      ASSERT_LT(end + 1, text.size()) << name;
      quoted ^= text[end] == '"';
    }
    if (text[end - 1] == '/' || name == "meta") continue;
    if (!closes) {
      open.push_back(name);
      continue;
    }
    ASSERT_FALSE(open.empty()) << name;
    ASSERT_EQ(open.back(), name);
    open.pop_back();
  }
  EXPECT_TRUE(open.empty()) << open.back();
}

TEST(LineChart, ALongLineIsThinnedAndKeepsItsPeak) {
  Series s{"loss", {}, {}};
  for (int i = 0; i < 200000; ++i) {
    s.x.push_back(i);
    s.y.push_back(i == 77777 ? 50 : 1 + 0.1 * std::sin(i));
  }
  const std::string svg = LineChart{"t", "step", "nats", {s}}.svg();
  EXPECT_LT(svg.size(), 40000u);
  expect_well_formed(svg);
  EXPECT_NE(svg.find(" 10.0"), std::string::npos) << "the peak reaches the top of the plot";
  EXPECT_NE(svg.find(">loss "), std::string::npos) << "the line is labelled at its end";
}

TEST(LineChart, GapsBreakTheLineAndNothingIsDrawnOutside) {
  Series s{"", {0, 1, 2, 3, 4, 5}, {1, 2, NAN, -4, 3, INFINITY}};
  const std::string log = LineChart{"t", "x", "y", {s}, /*log_y=*/true}.svg(), linear = LineChart{"t", "x", "y", {s}}.svg();
  const auto line = [](const std::string& svg) {
    std::smatch m;
    EXPECT_TRUE(std::regex_search(svg, m, std::regex("line s0\" d=\"([^\"]*)\"")));
    return m[1].str();
  };
  EXPECT_EQ(count(line(log), "M"), 2);     // 1, 2 | 3
  EXPECT_EQ(count(line(linear), "M"), 2);  // 1, 2 | -4, 3
  EXPECT_EQ(count(log + linear, "nan") + count(log + linear, "inf"), 0);
  EXPECT_NE((LineChart{"t", "x", "y", {}}.svg().find("no data yet")), std::string::npos);
  expect_well_formed(LineChart{"a<b \"c\" & d", "x<", "y", {Series{"<s>", {1}, {1}}}}.svg());
}

TEST(LineChart, EndLabelsDoNotOverlap) {
  LineChart c{"t", "x", "y", {}};
  for (int i = 0; i < 6; ++i) c.series.push_back({"line", {0, 1}, {0, 1 + 0.001 * i}});
  const std::string svg = c.svg();
  std::vector<double> ys;
  const std::regex end("class=\"end s\\d\" x=\"[^\"]*\" y=\"([^\"]*)\"");
  for (std::sregex_iterator it(svg.begin(), svg.end(), end), stop; it != stop; ++it) ys.push_back(std::stod((*it)[1]));
  ASSERT_EQ(ys.size(), 6u);
  std::sort(ys.begin(), ys.end());
  for (std::size_t i = 1; i < ys.size(); ++i) EXPECT_GE(ys[i] - ys[i - 1], 14.9);
  EXPECT_LT(ys.back(), 270);
}

TEST(Picture, IsAFileThatNeedsNothingElse) {
  const std::string file = picture({"a < b", "x", "y & z", {Series{"line", {0, 1}, {1, 2}}}});
  expect_well_formed(file);
  EXPECT_EQ(count(file, "xmlns=\"http://www.w3.org/2000/svg\""), 1);
  EXPECT_EQ(count(file, "var(--"), 0) << "colours are numbers, since not every viewer knows variables";
  EXPECT_EQ(count(file, ".line.s0 { stroke: #"), 2) << "one for light and one for dark";
  EXPECT_EQ(count(file, ">y &amp; z<"), 1);
}

TEST(HeatMap, ShowsEachLevelAndPoolsWhatDoesNotFit) {
  HeatMap h{"t", "step", "× the even load", {{"layer 1", 2}}, {1, 2}, {1, 8, 0.125f, NAN}};
  const std::string svg = h.svg();
  expect_well_formed(svg);
  // Each level is once in the legend; 1, 8 and 1/8 are also in the map, the unknown is not.
  for (int l = 0; l < 13; ++l) EXPECT_EQ(count(svg, "class=\"h" + std::to_string(l) + "\""), l == 0 || l == 6 || l == 12 ? 2 : 1) << l;

  HeatMap big{"t", "step", "", {}, {}, {}};
  for (int g = 0; g < 58; ++g) big.groups.push_back({"layer", 256});
  for (int c = 0; c < 300; ++c) big.x.push_back(c);
  big.values.assign(58 * 256 * 300, 1);
  for (int c = 0; c < 300; ++c) big.values[static_cast<std::size_t>(c * 58 * 256 + 7777)] = 6;
  const std::string pooled = big.svg();
  EXPECT_LT(pooled.size(), 400000u);
  EXPECT_EQ(count(pooled, "class=\"h11\""), 2) << "one overloaded expert among 14848 stays visible";
  EXPECT_NE((HeatMap{"t", "", "", {}, {}, {}}.svg().find("no data yet")), std::string::npos);
}

TEST(Page, StandsAloneAndEscapes) {
  Page p("run <1> & \"two\"", "sub");
  p.heading("h<");
  p.paragraph("a & b");
  p.key_figures(std::vector<KeyFigure>{{"loss", "1.5", "nats"}, {"<x>", "1", ""}});
  p.add(LineChart{"one", "x", "y", {}});
  p.add(HeatMap{"two", "x", "", {}, {}, {}});
  p.table({"name", "n"}, {{"<a>", "1"}, {"b"}});
  p.code("finback x --y \"<z>\"");
  p.add(LineChart{"three", "x", "y", {}});
  const std::string html = p.html();
  expect_well_formed(html.substr(html.find("<html")));
  EXPECT_EQ(count(html, "class=\"charts\""), 2);
  EXPECT_EQ(count(html, "http:") + count(html, "https:") + count(html, "<script") + count(html, "src="), 0);
  EXPECT_EQ(count(html, "http-equiv=\"refresh\""), 0);
  EXPECT_EQ(count(p.html(30), "http-equiv=\"refresh\" content=\"30\""), 1);
  EXPECT_NE(html.find("run &lt;1&gt; &amp; &quot;two&quot;"), std::string::npos);
  EXPECT_EQ(html.find("<a>"), std::string::npos);
}

}  // namespace
}  // namespace finback::formats
