#include "core/file.h"
#include "core/json.h"
#include "plan/schedule_svg.h"
#include "plan/schedule_text.h"
#include "plan/schedule_trace.h"
#include "tests/formats/temp_folder.h"

#include <gtest/gtest.h>

#include <map>

namespace finback::plan {
namespace {

using parallel::ScheduleKind;

int count(std::string_view text, std::string_view what) {
  int n = 0;
  for (auto at = text.find(what); at != std::string_view::npos; at = text.find(what, at + what.size())) ++n;
  return n;
}

TEST(ScheduleText, IsALineARank) {
  EXPECT_EQ(draw_text(report_schedule(ScheduleKind::dualpipev, 2, 4, {}), 120, /*colour=*/false),
            "DualPipeV: 2 ranks, 4 stages, 4 micro-batches\n"
            "Step 26, of which a rank is idle for 2 (7.7 %); at most 5 activations alive. Published: 2 and 5.\n"
            "\n"
            "time    0\n"
            "rank 0  F0 F1 F2 f0 i0 w0 f1 F3+b1===    f2+B0=== b2===    f3+B1=== b3=== I2 W2 I3 W3\n"
            "rank 1     F0 f0 F1 f1 F2 b0=== f2+B0=== F3+b1=== f3+B1=== b2=== B2===    i3 I3 w3 W3\n"
            "\n"
            "F forward, B backward, I backward to the input alone, W to the weights; F+B a pair, overlapped.\n"
            "Capital letters: stages 0–1, from rank 0 to rank 1; small: stages 2–3, on the way back.\n");
}

TEST(ScheduleText, ComesInBandsOfTheWidth) {
  const auto report = report_schedule(ScheduleKind::one_f_one_b, 2, 12, {});
  const std::string text = draw_text(report, 60, /*colour=*/false);
  std::size_t begin = text.find("time");
  EXPECT_EQ(count(text, "\ntime "), 3);  // 39 of time, 4 columns each, 52 in a band
  EXPECT_EQ(count(text, "rank 0"), 3);
  for (std::size_t end; (end = text.find('\n', begin)) < text.find("F forward"); begin = end + 1) EXPECT_LE(end - begin, 60u);
  // Colours add nothing but colours.
  std::string plain = draw_text(report, 60, /*colour=*/true);
  EXPECT_GT(count(plain, "\033["), 40);
  for (auto at = plain.find('\033'); at != std::string::npos; at = plain.find('\033')) plain.erase(at, plain.find('m', at) + 1 - at);
  EXPECT_EQ(count(plain, "B11=="), 2);
}

// Actions too short for their labels lose those, not their place.
TEST(ScheduleText, StaysWithinItsSizeWhereDurationsDifferWildly) {
  const auto report = report_schedule(ScheduleKind::zb1p, 2, 16, {.forward = 1, .backward_input = 1, .backward_weight = 1e-6});
  EXPECT_LT(draw_text(report, 120, false).size(), 60'000u);
}

TEST(ScheduleSvg, DrawsEachActionOnce) {
  const auto report = report_schedule(ScheduleKind::dualpipe, 4, 8, {});
  const std::string svg = draw_svg(report);
  EXPECT_EQ(count(svg, "<g>"), count(svg, "</g>"));
  int actions = 0, pairs = 0;
  for (const auto& list : report.schedule.actions)
    for (const auto& a : list) {
      ++actions;
      pairs += a.work == parallel::Work::pair;
    }
  EXPECT_EQ(count(svg, "<g>"), actions);
  EXPECT_EQ(count(svg, "class=\"pair\""), pairs + 1);                              // and the legend's
  EXPECT_EQ(count(svg, "class=\"F0\"") + count(svg, "class=\"F1\""), 32 + 2 + 2);  // 4 stages × 8
  EXPECT_NE(svg.find("<title>F4 on stage 0, 0 to 1</title>"), std::string::npos);
  EXPECT_NE(svg.find("light: micro-batches 0–3, from rank 0 to rank 3"), std::string::npos);
  EXPECT_NE(svg.find("dark: 4–7, from rank 3 to rank 0"), std::string::npos);
  // Nothing is explained that is not there.
  const std::string simple = draw_svg(report_schedule(ScheduleKind::one_f_one_b, 2, 4, {}));
  EXPECT_EQ(count(simple, "overlapped"), 0);
  EXPECT_EQ(count(simple, "light:"), 0);
}

// docs/dualpipe.svg is what the program draws today.
TEST(ScheduleSvg, TheDocumentedPictureIsDrawnByThisCode) {
  const std::string drawn = draw_svg(report_schedule(ScheduleKind::dualpipe, 8, 20, {}));
  EXPECT_TRUE(core::read_file(FINBACK_SOURCE_DIR "/docs/dualpipe.svg", 1 << 20) == drawn)
      << "draw it again: finback plan schedule --out docs/dualpipe.svg";
}

TEST(ScheduleTrace, HasEachActionOnItsRankAndLine) {
  finback::testing::TempFolder folder;
  const auto report = report_schedule(ScheduleKind::dualpipe, 4, 8, {});
  write_schedule_trace(folder / "trace.json", report);
  const auto json = core::read_json_file(folder / "trace.json");
  std::map<std::string, int> categories;
  std::map<std::int64_t, double> busy, last;  // by rank and line; a pair stands on both lines
  for (const auto& event : json.at("traceEvents").as_array()) {
    if (event.at("ph") != "X") continue;
    ++categories[std::string(event.at("cat").as_string())];
    const std::int64_t line = 2 * event.at("pid").as_int64() + event.at("tid").as_int64();
    const double begin = event.at("ts").to_number<double>(), duration = event.at("dur").to_number<double>();
    ASSERT_GE(begin, last[line]);
    last[line] = begin + duration;
    busy[line] += duration / 1000;
  }
  EXPECT_EQ(categories["backward"] + categories["backward_input"] + categories["pair"] / 2, 32);
  EXPECT_EQ(categories["backward_weight"], categories["backward_input"]);
  EXPECT_EQ(busy.size(), 8u);
  for (int rank = 0; rank < 4; ++rank) {
    double forward = 0, pairs = 0;
    for (const auto& a : report.schedule.actions[static_cast<std::size_t>(rank)]) {
      forward += a.work == parallel::Work::forward ? 1 : 0;
      pairs += a.work == parallel::Work::pair ? 3 : 0;
    }
    EXPECT_DOUBLE_EQ(busy[2 * rank], forward + pairs);
    EXPECT_DOUBLE_EQ(busy[2 * rank] + busy[2 * rank + 1] - pairs, report.simulation.ranks[static_cast<std::size_t>(rank)].busy);
  }
}

TEST(ScheduleJson, HasTheFiguresAndThePublishedOnes) {
  const auto json = to_json(report_schedule(ScheduleKind::dualpipe, 8, 20, {}));
  EXPECT_EQ(json.at("kind"), "dualpipe");
  EXPECT_EQ(json.at("length").to_number<double>(), 66);
  EXPECT_EQ(json.at("bubble").to_number<double>(), 6);
  EXPECT_EQ(json.at("peak").to_number<int>(), 9);
  EXPECT_EQ(json.at("published").at("bubble").to_number<double>(), 6);
  EXPECT_EQ(json.at("published").at("peak").to_number<int>(), 9);
  EXPECT_EQ(json.at("per_rank").as_array().size(), 8u);
  EXPECT_EQ(json.at("durations").at("pair").to_number<double>(), 3);
  EXPECT_TRUE(to_json(report_schedule(ScheduleKind::dualpipe, 8, 8, {})).at("published").is_null());
}

}  // namespace
}  // namespace finback::plan
