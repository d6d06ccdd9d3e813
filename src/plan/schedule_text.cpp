#include "plan/schedule_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>

namespace finback::plan {
namespace {

using parallel::Action;
using parallel::Schedule;
using parallel::Work;

constexpr int kMostColumns = 20'000;  // of all bands; above, time is drawn coarser and labels are cut

// A character and its colour: 0 none, else 2 · kind + direction + 1.
struct Spot {
  char letter = ' ';
  unsigned char style = 0;
};
using Row = std::vector<Spot>;

// 256-colour backgrounds, light for the first direction and dark for the second: forward, backward, input, weights.
constexpr const char* kStyles[] = {"\033[0m",
                                   "\033[48;5;215;38;5;16m",
                                   "\033[48;5;166;38;5;231m",
                                   "\033[48;5;114;38;5;16m",
                                   "\033[48;5;28;38;5;231m",
                                   "\033[48;5;114;38;5;16m",
                                   "\033[48;5;28;38;5;231m",
                                   "\033[48;5;117;38;5;16m",
                                   "\033[48;5;25;38;5;231m"};

unsigned char style_of(Work work, int direction) { return static_cast<unsigned char>(2 * static_cast<int>(work) + direction + 1); }

std::string label_of(const Schedule& s, Work work, const parallel::Cell& cell) {
  const char letter = letter_of(work);
  return fmt::format("{}{}", s.direction_of(cell) == 0 ? letter : static_cast<char>(letter - 'A' + 'a'), cell.micro_batch);
}

// Columns of the shortest action: its label and a gap.
int label_columns(const Schedule& s) { return static_cast<int>(fmt::formatted_size("F{} ", s.micro_batches - 1)); }

// Columns a unit of time.
double scale_of(const ScheduleReport& r) {
  const double shortest = std::min({r.durations.forward, r.durations.backward_input, r.durations.backward_weight});
  return std::min(label_columns(r.schedule) / shortest, kMostColumns / r.simulation.length);
}

Row row_of(const ScheduleReport& r, std::size_t rank, double scale) {
  const auto column = [&](double time) { return static_cast<std::size_t>(std::lround(time * scale)); };
  Row row(column(r.simulation.length));
  for (std::size_t i = 0; i < r.schedule.actions[rank].size(); ++i) {
    const Action& action = r.schedule.actions[rank][i];
    const auto [begin, end] = r.simulation.times[rank][i];
    const std::size_t from = column(begin), to = column(end);
    std::string text;
    double at = begin;
    for (const Half& half : Halves(action, r.durations)) {
      const auto first = column(at), last = column(at += half.share * (end - begin));
      for (std::size_t c = first; c < std::min(last, to); ++c) row[c].style = style_of(half.work, r.schedule.direction_of(half.cell));
      if (!text.empty()) text += '+';
      text += label_of(r.schedule, half.work, half.cell);
    }
    if (to <= from + 1) continue;
    text.resize(to - from - 1, '=');  // the last column is the gap to the next
    if (from + text.size() < row.size() + 1)
      for (std::size_t c = 0; c < text.size(); ++c) row[from + c].letter = text[c];
  }
  return row;
}

std::string printed(std::span<const Spot> spots, bool colour) {
  std::string out;
  unsigned char style = 0;
  for (const Spot& s : spots) {
    if (colour && s.style != style) out += kStyles[style = s.style];
    out += s.letter;
  }
  if (style != 0) out += kStyles[0];
  else out.erase(out.find_last_not_of(' ') + 1);
  return out;
}

}  // namespace

std::string draw_text(const ScheduleReport& r, int columns, bool colour) {
  std::string out = title_of(r) + "\n" + summary_of(r) + "\n";
  const auto head = static_cast<int>(fmt::formatted_size("rank {}  ", r.schedule.ranks - 1));
  const double scale = scale_of(r);
  std::vector<Row> rows;
  for (std::size_t rank = 0; rank < r.schedule.actions.size(); ++rank) rows.push_back(row_of(r, rank, scale));
  const int room = std::max(columns, 40) - head, label = label_columns(r.schedule);
  const auto width = static_cast<std::size_t>(room - room % label);  // where all take as long, no action is cut in two
  for (std::size_t from = 0; from < rows[0].size(); from += width) {
    const std::size_t count = std::min(width, rows[0].size() - from);
    out += fmt::format("\n{:<{}}{:.6g}\n", "time", head, static_cast<double>(from) / scale);
    for (std::size_t rank = 0; rank < rows.size(); ++rank)
      out += fmt::format("{:<{}}{}\n", fmt::format("rank {}", rank), head, printed(std::span(rows[rank]).subspan(from, count), colour));
  }
  out += "\nF forward, B backward, I backward to the input alone, W to the weights; F+B a pair, overlapped.\n";
  if (const Directions d = directions_of(r.schedule); !d.second.empty())
    out += fmt::format("Capital letters: {}; small: {}.\n", d.first, d.second);
  return out;
}

}  // namespace finback::plan
