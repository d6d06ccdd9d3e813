#include "plan/memory_report.h"

#include "core/file.h"

#include <fmt/format.h>
#include <boost/json/array.hpp>

#include <algorithm>

namespace finback::plan {

using parallel::RankBytes;
using parallel::Stages;

namespace {

std::vector<int> own_stages(const MemoryReport& r, int rank) { return parallel::stages_on(r.shape.schedule, r.shape.layout.pp, rank); }

// "embedding, 0–3" or "58–60, head"
std::string contents(const MemoryReport& r, int stage) {
  const int first = r.stages.first_block[static_cast<std::size_t>(stage)], end = r.stages.first_block[static_cast<std::size_t>(stage) + 1];
  std::string text = stage == 0 ? "embedding" : "";
  const auto add = [&](const std::string& more) {
    if (!text.empty()) text += ", ";
    text += more;
  };
  if (end > first) add(end - first == 1 ? fmt::format("{}", first) : fmt::format("{}–{}", first, end - 1));
  if (stage == r.stages.count() - 1) {
    add("head");
    if (r.shape.config.num_nextn_predict_layers > 0) add("MTP");
  }
  return text.empty() ? "nothing" : text;
}

std::int64_t largest(const MemoryReport& r) {
  std::int64_t most = 0;
  for (const RankBytes& b : r.ranks) most = std::max(most, b.total());
  return most;
}

// Columns that a terminal needs, which are fewer than the bytes of an en dash.
std::size_t columns(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

}  // namespace

MemoryReport report_memory(const parallel::TrainingShape& shape) {
  const parallel::Mesh mesh(shape.layout);  // before a stage is cut
  MemoryReport report{.shape = shape,
                      .stages = parallel::cut_stages(shape.config, shape.seq_len, parallel::stages_of(shape.schedule, shape.layout.pp))};
  const std::vector<RankBytes> all = parallel::bytes_per_rank(shape, report.stages);
  for (auto first = all.begin(); first != all.end(); first += shape.layout.dp)
    report.ranks.push_back(
        *std::max_element(first, first + shape.layout.dp, [](const RankBytes& a, const RankBytes& b) { return a.total() < b.total(); }));
  return report;
}

std::string describe(const MemoryReport& r) {
  const auto& s = r.shape;
  std::string out =
      fmt::format("{} ranks: PP {} × DP {}, EP {}; {}, {} micro-batches of {} × {} tokens a rank\n\n", s.layout.pp * s.layout.dp,
                  s.layout.pp, s.layout.dp, s.layout.ep, name_of(s.schedule), s.micro_batches, s.sequences, s.seq_len);
  std::vector<std::string> held;
  std::size_t width = 6;
  for (int rank = 0; rank < s.layout.pp; ++rank) {
    std::string text;
    for (const int stage : own_stages(r, rank)) text += (text.empty() ? "" : " + ") + contents(r, stage);
    width = std::max(width, columns(text));
    held.push_back(std::move(text));
  }
  const auto line = [&](std::string_view place, std::string_view blocks, std::initializer_list<std::string> cells) {
    out += fmt::format("{:>2}  {}{}", place, blocks, std::string(width - columns(blocks), ' '));
    for (const std::string& cell : cells) out += fmt::format("  {:>11}", cell);
    out += "\n";
  };
  line("pp", "blocks", {"weights", "gradients", "master", "moments", "activations", "total"});
  for (std::size_t i = 0; i < r.ranks.size(); ++i) {
    const RankBytes& b = r.ranks[i];
    const auto text = [](std::int64_t bytes) { return core::size_text(static_cast<std::uint64_t>(bytes)); };
    line(std::to_string(i), held[i],
         {text(b.weights), text(b.gradients), text(b.master), text(b.moments), text(b.activations), text(b.total())});
  }
  return out + fmt::format("\nThe largest: {}, beside temporaries, exchange buffers and the program.\n",
                           core::size_text(static_cast<std::uint64_t>(largest(r))));
}

boost::json::object to_json(const MemoryReport& r) {
  const auto& s = r.shape;
  boost::json::array ranks;
  for (std::size_t i = 0; i < r.ranks.size(); ++i) {
    const RankBytes& b = r.ranks[i];
    boost::json::array stages;
    for (const int stage : own_stages(r, static_cast<int>(i)))
      stages.push_back({{"stage", stage},
                        {"first_block", r.stages.first_block[static_cast<std::size_t>(stage)]},
                        {"end_block", r.stages.first_block[static_cast<std::size_t>(stage) + 1]}});
    ranks.push_back({{"stages", std::move(stages)},
                     {"weights", b.weights},
                     {"gradients", b.gradients},
                     {"master", b.master},
                     {"moments", b.moments},
                     {"activations", b.activations},
                     {"total", b.total()}});
  }
  return {{"layout", {{"pp", s.layout.pp}, {"dp", s.layout.dp}, {"ep", s.layout.ep}, {"world", s.layout.pp * s.layout.dp}}},
          {"schedule", name_of(s.schedule)},
          {"micro_batches", s.micro_batches},
          {"tokens", s.sequences * s.seq_len},
          {"largest_bytes", largest(r)},
          {"per_rank", std::move(ranks)}};
}

}  // namespace finback::plan
