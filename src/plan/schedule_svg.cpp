#include "plan/schedule_svg.h"

#include "formats/axis.h"
#include "formats/html.h"

#include <fmt/format.h>

#include <algorithm>

namespace finback::plan {
namespace {

using formats::escape_html;
using formats::short_number;
using parallel::Schedule;
using parallel::Work;

// Pixels.
constexpr double kLeft = 72, kRight = 128, kTop = 84, kRow = 28, kGap = 5, kShortest = 21, kMostWidth = 20'000, kLetter = 6.6;

constexpr const char* kStyle = R"(<style>
text{font:12px "Helvetica Neue",Helvetica,Arial,"DejaVu Sans",sans-serif;fill:#23262b}
.title{font-size:17px;font-weight:600}.soft{fill:#6a7078}.n{font-size:11px;text-anchor:middle}.d1{fill:#fff}
.idle{fill:#f0f1f3}.tick{stroke:#d4d7db}.pair{fill:none;stroke:#23262b;stroke-width:1.6}
.F0{fill:#fdbe6b}.F1{fill:#d2700a}.B0,.I0{fill:#9bd69a}.B1,.I1{fill:#2f8f4e}.W0{fill:#9ccbf2}.W1{fill:#2a6fb5}
</style>
)";

struct Picture {
  const ScheduleReport& r;
  double scale = 1;  // pixels a unit of time
  std::string out;

  double x_of(double time) const { return kLeft + time * scale; }
  double y_of(std::size_t rank) const { return kTop + static_cast<double>(rank) * (kRow + kGap); }

  void rect(std::string_view style, double x, double y, double width, double height, double round = 0) {
    out += fmt::format(R"(<rect class="{}" x="{:.6g}" y="{:.6g}" width="{:.6g}" height="{:.6g}")", style, x, y, width, height);
    out += round > 0 ? fmt::format(R"( rx="{:g}"/>)", round) : "/>";
  }
  void text(std::string_view style, double x, double y, std::string_view content) {
    out += fmt::format(R"(<text class="{}" x="{:.6g}" y="{:.6g}">{}</text>)", style, x, y, escape_html(content));
  }

  // One half of an action. A backward that goes to the weights too stands on a strip of their colour.
  void half(const Half& h, int direction, double x, double y, double width) {
    const std::string style = fmt::format("{}{}", letter_of(h.work), direction);
    rect(style, x, y, width, kRow);
    if (h.work == Work::backward) rect(fmt::format("W{}", direction), x, y + kRow - 5, width, 5);
    const std::string number = std::to_string(h.cell.micro_batch);
    if (static_cast<double>(number.size()) * kLetter + 2 <= width)
      text(direction == 0 ? "n" : "n d1", x + width / 2, y + (h.work == Work::backward ? 16.5 : 18), number);
  }

  void action(std::size_t rank, std::size_t i) {
    constexpr double kSeam = 1;  // between neighbours
    const parallel::Action& a = r.schedule.actions[rank][i];
    const auto [begin, end] = r.simulation.times[rank][i];
    const double y = y_of(rank);
    double at = begin;
    std::string said;
    out += "<g>";
    for (const Half& h : Halves(a, r.durations)) {
      const double x = x_of(at);
      at += h.share * (end - begin);
      half(h, r.schedule.direction_of(h.cell), x, y, std::max(0.5, x_of(at) - x - (a.work == Work::pair ? 0 : kSeam)));
      said += fmt::format("{}{} on stage {}", said.empty() ? "" : " with ", fmt::format("{}{}", letter_of(h.work), h.cell.micro_batch),
                          h.cell.stage);
    }
    if (a.work == Work::pair) rect("pair", x_of(begin) + 0.5, y, x_of(end) - x_of(begin) - 2, kRow, 2.5);
    out += fmt::format("<title>{}, {} to {}</title></g>\n", said, short_number(begin), short_number(end));
  }

  void rows() {
    const Simulation& sim = r.simulation;
    const double bottom = y_of(sim.ranks.size()) - kGap + 4;
    const int marks = std::clamp(static_cast<int>(sim.length * scale / 90), 2, 60);
    for (const formats::Tick& t : formats::linear_axis(0, sim.length, marks, /*round_out=*/false).ticks) {
      out += fmt::format(R"(<path class="tick" d="M{0:.6g} {1:g}V{2:g}"/>)", x_of(t.value) - 0.5, kTop - 8, bottom);
      text("n soft", x_of(t.value) - 0.5, kTop - 13, t.label);
    }
    out += "\n";
    for (std::size_t rank = 0; rank < sim.ranks.size(); ++rank) {
      text("", 16, y_of(rank) + 18, fmt::format("rank {}", rank));
      rect("idle", kLeft, y_of(rank), sim.length * scale - 1, kRow);
      for (std::size_t i = 0; i < sim.times[rank].size(); ++i) action(rank, i);
      text("soft", x_of(sim.length) + 12, y_of(rank) + 18,
           fmt::format("idle {}, peak {}", short_number(sim.ranks[rank].idle), sim.ranks[rank].peak));
      out += "\n";
    }
  }

  // Only what the picture shows.
  void legend(double y) {
    bool seen[5] = {};
    for (const auto& list : r.schedule.actions)
      for (const parallel::Action& a : list) seen[static_cast<std::size_t>(a.work)] = true;
    double x = kLeft;
    const auto entry = [&](std::string_view name, double swatch, auto&& draw) {
      draw();
      text("", x + swatch + 7, y + 13, name);
      x += swatch + 7 + static_cast<double>(name.size()) * kLetter + 20;
    };
    const auto one = [&](Work work, double width, std::string_view name) {
      if (seen[static_cast<std::size_t>(work)])
        entry(name, width, [&] {
          rect(fmt::format("{}0", letter_of(work)), x, y, width, 18);
          if (work == Work::backward) rect("W0", x, y + 14, width, 4);
        });
    };
    one(Work::forward, 18, "forward");
    one(Work::backward, 32, "backward");
    one(Work::backward_input, 18, "backward to the input");
    one(Work::backward_weight, 18, "backward to the weights");
    if (seen[static_cast<std::size_t>(Work::pair)])
      entry("forward and backward, overlapped", 48, [&] {
        rect("F0", x, y, 16, 18);
        rect("B1", x + 16, y, 32, 18);
        rect("W1", x + 16, y + 14, 32, 4);
        rect("pair", x, y, 48, 18, 2.5);
      });
    entry("idle", 18, [&] { rect("idle", x, y, 18, 18); });
    x = kLeft;
    y += 28;
    const Directions d = directions_of(r.schedule);
    if (d.second.empty()) return;
    entry("light: " + d.first, 54, [&] {
      for (int k = 0; k < 3; ++k) rect(fmt::format("{}0", "FBW"[k]), x + 18 * k, y, 17, 18);
    });
    entry("dark: " + d.second, 54, [&] {
      for (int k = 0; k < 3; ++k) rect(fmt::format("{}1", "FBW"[k]), x + 18 * k, y, 17, 18);
    });
  }
};

}  // namespace

std::string draw_svg(const ScheduleReport& r) {
  const double shortest = std::min({r.durations.forward, r.durations.backward_input, r.durations.backward_weight});
  Picture p{.r = r, .scale = std::min(kShortest / shortest, kMostWidth / r.simulation.length)};
  const double legend = p.y_of(r.simulation.ranks.size()) + 16;
  const double width = std::max(kLeft + r.simulation.length * p.scale + kRight, 760.0);
  const double height = legend + (directions_of(r.schedule).second.empty() ? 34 : 62);
  p.out =
      fmt::format(R"(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0:.6g} {1:.6g}" width="{0:.6g}" height="{1:.6g}" role="img">)",
                  width, height);
  p.out += fmt::format("\n<title>{}</title>\n{}", escape_html(title_of(r)), kStyle);
  p.out += fmt::format(R"(<rect width="{:.6g}" height="{:.6g}" fill="#fff"/>)", width, height) + "\n";
  p.text("title", 16, 28, title_of(r));
  p.text("soft", 16, 48, summary_of(r));
  p.rows();
  p.legend(legend);
  return p.out + "\n</svg>\n";
}

}  // namespace finback::plan
