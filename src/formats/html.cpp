#include "formats/html.h"

#include "core/error.h"

#include <boost/algorithm/string/replace.hpp>

namespace finback::formats {
namespace {

// Colours: Okabe and Ito's, which the colour-blind can tell apart; darker or lighter where the background asks for contrast.
struct Colour {
  std::string_view name, light, dark;
};
constexpr Colour kPalette[] = {{"ground", "#fdfdfc", "#15171a"}, {"ink", "#1c1e21", "#e6e7e9"},  {"soft", "#5f656d", "#9aa1a9"},
                               {"rule", "#e3e4e6", "#2e3237"},   {"card", "#ffffff", "#1b1e22"}, {"s0", "#0072b2", "#56b4e9"},
                               {"s1", "#d55e00", "#f0884a"},     {"s2", "#00805d", "#3cc09a"},   {"s3", "#b0508a", "#dd93bd"},
                               {"s4", "#946500", "#e6b450"},     {"s5", "#3c7fb0", "#9ccbf0"}};

constexpr std::string_view kDark = "@media (prefers-color-scheme: dark)";

std::string palette_rules() {
  std::string light, dark;
  for (const Colour& c : kPalette) {
    light += fmt::format(" --{}: {};", c.name, c.light);
    dark += fmt::format(" --{}: {};", c.name, c.dark);
  }
  return fmt::format("\n:root {{ color-scheme: light dark;{} }}\n{} {{ :root {{{} }} }}\n", light, kDark, dark);
}

constexpr std::string_view kPageStyle = R"(
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; font-weight: 600; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.15rem; font-weight: 600; }
p { margin: .5rem 0; max-width: 44rem; }
.subtitle { color: var(--soft); }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1.5rem 0; }
.figures dt { color: var(--soft); font-size: .85rem; }
.figures dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; line-height: 1.3; }
.figures small { font-size: .85rem; color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1rem; margin: 1rem 0; }
figure { margin: 0; padding: .9rem .9rem .6rem; background: var(--card); border: 1px solid var(--rule); border-radius: 6px; }
figcaption { margin-bottom: .4rem; }
figcaption b { font-weight: 600; }
figcaption span { color: var(--soft); font-size: .85rem; margin-left: .4rem; }
svg { display: block; width: 100%; height: auto; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem; }
th, td { padding: .3rem 1.25rem .3rem 0; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
pre { margin: 1rem 0; padding: .8rem 1rem; overflow-x: auto; background: var(--card); border: 1px solid var(--rule); border-radius: 6px;
  font: .88rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
)";

constexpr std::string_view kChartStyle = R"(
svg { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
.grid { stroke: var(--rule); stroke-width: 1; fill: none; }
.axis { stroke: var(--soft); stroke-width: 1; fill: none; }
.tick { fill: var(--soft); font-variant-numeric: tabular-nums; }
.label { fill: var(--soft); }
.line { fill: none; stroke-width: 1.5; stroke-linejoin: round; stroke-linecap: round; }
.faint { stroke-width: 1; opacity: .35; }
.end { stroke: none; }
)";

// Levels of the heat map, less than an even share to more: mixed in Oklab, so that their steps look equal.
constexpr std::string_view kHeatLight[] = {"#08519c", "#376baa", "#5b85b8", "#7f9ec6", "#a2b8d2", "#c7d2de", "#ececea",
                                           "#e6d0c6", "#deb3a3", "#d59780", "#cb7a5d", "#bf5d39", "#b23c00"};
constexpr std::string_view kHeatDark[] = {"#6fb6f2", "#649ed0", "#5886ae", "#4d708e", "#42596f", "#364452", "#2b3036",
                                          "#4b423f", "#6c5547", "#8f684e", "#b37b53", "#d98f58", "#ffa35c"};

// Classes s0 … s5 of lines and their labels.
std::string line_rules() {
  std::string css;
  for (int i = 0; i < 6; ++i) css += fmt::format(".line.s{0} {{ stroke: var(--s{0}); }} .end.s{0} {{ fill: var(--s{0}); }}\n", i);
  return css;
}

// Classes h0 … h12 of the heat map.
std::string heat_rules() {
  std::string css;
  const auto levels = [&](std::span<const std::string_view> colours) {
    for (std::size_t i = 0; i < colours.size(); ++i) css += fmt::format(".h{} {{ fill: {}; }}\n", i, colours[i]);
  };
  levels(kHeatLight);
  css += fmt::format("{} {{\n", kDark);
  levels(kHeatDark);
  return css + "}\n";
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

Page::Page(std::string title, std::string subtitle) : title_(std::move(title)), subtitle_(std::move(subtitle)) {}

void Page::end_charts() {
  if (in_charts_) body_ += "</div>\n";
  in_charts_ = false;
}

void Page::heading(std::string_view text) {
  end_charts();
  body_ += fmt::format("<h2>{}</h2>\n", escape_html(text));
}

void Page::paragraph(std::string_view text) {
  end_charts();
  body_ += fmt::format("<p>{}</p>\n", escape_html(text));
}

void Page::code(std::string_view text) {
  end_charts();
  body_ += fmt::format("<pre>{}</pre>\n", escape_html(text));
}

void Page::key_figures(std::span<const KeyFigure> figures) {
  end_charts();
  body_ += "<dl class=\"figures\">\n";
  for (const KeyFigure& f : figures)
    body_ += fmt::format("<div><dt>{}</dt><dd>{}{}</dd></div>\n", escape_html(f.label), escape_html(f.value),
                         f.unit.empty() ? "" : fmt::format(" <small>{}</small>", escape_html(f.unit)));
  body_ += "</dl>\n";
}

void Page::table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows) {
  end_charts();
  const auto row = [&](const std::vector<std::string>& cells, const char* tag) {
    FB_CHECK(cells.size() <= header.size(), "{} cells below {} headings", cells.size(), header.size());
    body_ += "<tr>";
    for (const std::string& cell : cells) body_ += fmt::format("<{0}>{1}</{0}>", tag, escape_html(cell));
    body_ += "</tr>\n";
  };
  body_ += "<div class=\"table\"><table>\n<thead>";
  row(header, "th");
  body_ += "</thead>\n<tbody>\n";
  for (const auto& r : rows) row(r, "td");
  body_ += "</tbody></table></div>\n";
}

void Page::figure(const std::string& title, const std::string& note, const std::string& svg) {
  if (!in_charts_) body_ += "<div class=\"charts\">\n";
  in_charts_ = true;
  body_ +=
      fmt::format("<figure><figcaption><b>{}</b><span>{}</span></figcaption>\n{}\n</figure>\n", escape_html(title), escape_html(note), svg);
}

namespace {

std::string note_of(const LineChart& chart) { return chart.y_label + (chart.log_y ? ", logarithmic" : ""); }

}  // namespace

void Page::add(const LineChart& chart) { figure(chart.title, note_of(chart), chart.svg()); }

void Page::add(const HeatMap& chart) { figure(chart.title, chart.scale_label, chart.svg()); }

std::string Page::html(int refresh_seconds) const {
  std::string out = "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
  out += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
  if (refresh_seconds > 0) out += fmt::format("<meta http-equiv=\"refresh\" content=\"{}\">\n", refresh_seconds);
  out += fmt::format("<title>{}</title>\n<style>{}{}{}{}{}</style>\n</head>\n<body>\n<header><h1>{}</h1>", escape_html(title_),
                     palette_rules(), kPageStyle, kChartStyle, line_rules(), heat_rules(), escape_html(title_));
  if (!subtitle_.empty()) out += fmt::format("<p class=\"subtitle\">{}</p>", escape_html(subtitle_));
  return out + "</header>\n" + body_ + (in_charts_ ? "</div>\n" : "") + "</body>\n</html>\n";
}

// Colours as numbers: not every program that shows pictures knows CSS's variables.
std::string picture(const LineChart& chart) {
  constexpr std::string_view kOpening = "<svg ";
  const std::string plot = chart.svg();
  FB_CHECK(plot.starts_with(kOpening), "{}", plot.substr(0, 20));
  std::string light =
      fmt::format("{}{}.title {{ fill: var(--ink); font-weight: 600; }} .ground {{ fill: var(--ground); }}\n", kChartStyle, line_rules());
  std::string dark = light;
  for (const Colour& c : kPalette) {
    boost::algorithm::replace_all(light, fmt::format("var(--{})", c.name), c.light);
    boost::algorithm::replace_all(dark, fmt::format("var(--{})", c.name), c.dark);
  }
  return fmt::format(R"svg(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 500 330" width="750" height="495">
<style>{}{} {{{}}}</style>
<rect class="ground" width="500" height="330"/>
<text class="title" x="10" y="20">{}</text><text class="label" x="10" y="38">{}</text>
<svg x="10" y="50" width="480" height="270" {}
</svg>
)svg",
                     light, kDark, dark, escape_html(chart.title), escape_html(note_of(chart)), plot.substr(kOpening.size()));
}

}  // namespace finback::formats
