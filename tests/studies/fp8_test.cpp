// The study of FP8: what its figures are computed with, and that its page is its results'.
#include "studies/fp8/page.h"
#include "studies/fp8/statistics.h"

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "tests/formats/temp_folder.h"

#include <gtest/gtest.h>

#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace finback::studies {
namespace {

TEST(Statistics, StudentsIntervalOfThreeSamples) {
  // Mean 2, standard deviation 1, so ± 4.3027 / √3.
  const double samples[] = {1, 2, 3};
  const Interval i = student_interval(samples);
  EXPECT_DOUBLE_EQ(i.mean, 2);
  EXPECT_NEAR(i.half_width, 4.302653 / std::sqrt(3.0), 1e-4);
  EXPECT_NEAR(i.high(), 4.4841, 1e-3);
  const double equal[] = {0.5, 0.5};
  EXPECT_EQ(student_interval(equal).half_width, 0);
}

TEST(Statistics, RelativeDifferencesKeepTheirSign) {
  const double a[] = {2.02, 3.96}, b[] = {2, 4};
  EXPECT_NEAR(mean_relative_difference(a, b), 0, 1e-15);
  EXPECT_NEAR(mean_relative_difference(std::span(a).first(1), std::span(b).first(1)), 0.01, 1e-15);
}

TEST(Accumulation, PromotionLeavesLessAndManyBitsLeaveNothing) {
  const AccumulationError plain = accumulation_error(Distribution::positive_uniform, 16, 1024, 14, false);
  const AccumulationError promoted = accumulation_error(Distribution::positive_uniform, 16, 1024, 14, true);
  EXPECT_GT(plain.largest_to_largest, 4 * promoted.largest_to_largest);
  EXPECT_LT(plain.bias, 0);  // what is cut off makes sums of positive numbers smaller
  EXPECT_GE(plain.largest_relative, plain.mean_relative);
  EXPECT_LT(accumulation_error(Distribution::normal, 16, 256, 45, false).largest_relative, 1e-9);
}

TEST(Page, IsWhatTheResultsSay) {
  const std::string root = FINBACK_SOURCE_DIR;
  const boost::json::value value = core::read_json_file(root + "/studies/fp8/results.json");
  const Results results = from_json(value, "results.json");
  EXPECT_EQ(core::pretty_json(to_json(results)), core::pretty_json(value));  // nothing is lost between the two
  for (const Document& d : write_page(results))
    EXPECT_EQ(core::read_file(root + "/docs/studies/" + d.name, 1 << 20), d.text) << "write " << d.name << " anew: studies/fp8/run --page";
}

TEST(Page, OfNoRunSaysSo) {
  const std::vector<Document> page = write_page({.planned = 12, .storage = {{"full", 2, 2, 1}, {"bf16", 1, 1, 1}}});
  EXPECT_NE(page[0].text.find("0 of 12 runs are complete"), std::string::npos);
  EXPECT_NE(page[0].text.find("No pair is complete yet"), std::string::npos);
}

TEST(Results, OfAnotherMakingAreRefused) { EXPECT_THROW(from_json(core::parse_json(R"({"runs": 1})", "x.json"), "x.json"), core::Error); }

// studies/fp8/corpus as a program: its exit code, and what it said.
std::pair<int, std::string> corpus(const std::string& environment, const std::string& arguments) {
  const std::string command = fmt::format("env {} bash '{}/studies/fp8/corpus' {} 2>&1", environment, FINBACK_SOURCE_DIR, arguments);
  FILE* pipe = ::popen(command.c_str(), "r");
  std::string said;
  for (int c; pipe && (c = std::fgetc(pipe)) != EOF;) said += static_cast<char>(c);
  const int status = ::pclose(pipe);
  return {WEXITSTATUS(status), said};
}

TEST(Corpus, SaysInOneLineWhatItLacks) {
  const testing::TempFolder folder;
  const std::string work = folder.path();
  const auto expect = [&](int exit, const std::string& part, const std::pair<int, std::string>& got) {
    EXPECT_EQ(got.first, exit) << got.second;
    EXPECT_NE(got.second.find(part), std::string::npos) << got.second;
    EXPECT_EQ(std::count(got.second.begin(), got.second.end(), '\n'), 1) << got.second;
  };
  expect(2, "FINBACK_DATA names no folder", corpus("-u FINBACK_DATA", work));
  expect(4, "no hellaswag_val_full.txt.bz2", corpus("FINBACK_DATA=" + work, work));
  expect(4, "cannot read the text", corpus("", work + " " + work + "/none.txt"));
  core::write_file_atomic(work + "/short.txt", "a line\n");
  expect(3, "a text of 1 lines", corpus("", work + " " + work + "/short.txt"));
  EXPECT_FALSE(core::exists(work + "/train.txt"));
}

TEST(Corpus, HoldsOutTheLastFortiethOfEachText) {
  const testing::TempFolder folder;
  const std::string work = folder.path();
  std::string lines, others;
  for (int i = 0; i < 80; ++i) lines += fmt::format("{}\n", i);
  for (int i = 100; i < 140; ++i) others += fmt::format("{}\n", i);
  core::write_file_atomic(work + "/a.txt", lines);
  core::write_file_atomic(work + "/b.txt", others);
  ASSERT_EQ(corpus("", fmt::format("{0} {0}/a.txt {0}/b.txt", work)).first, 0);
  EXPECT_EQ(core::read_file(work + "/valid.txt", 1000), "78\n79\n139\n");
  EXPECT_EQ(core::read_file(work + "/train.txt", 1000), lines.substr(0, lines.find("78\n")) + others.substr(0, others.find("139\n")));
  EXPECT_EQ(core::read_file(work + "/text.md", 1000), "a.txt b.txt.\n");
}

}  // namespace
}  // namespace finback::studies
