#include "formats/trace.h"

#include "core/json.h"
#include "tests/formats/temp_folder.h"

namespace finback::formats {
namespace {

TEST(Trace, IsJsonWithItsSpansEscaped) {
  finback::testing::TempFolder folder;
  const std::string path = folder / "trace.json";
  TraceWriter w(path);
  w.name_process(0, "rank 0");
  w.name_thread(0, 1, "line \"one\"");
  w.add({.name = "forward\n\\",
         .category = "compute",
         .begin = 1.5,
         .duration = 0.25e-6,
         .process = 0,
         .thread = 1,
         .layer = 3,
         .work = {.flops = 250, .read = 500, .written = 1000}});
  EXPECT_FALSE(core::exists(path));
  w.commit();
  const auto json = core::read_json_file(path);
  const auto& events = json.at("traceEvents").as_array();
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[1].at("args").at("name"), "line \"one\"");
  EXPECT_EQ(events[2].at("ph"), "X");
  EXPECT_EQ(events[2].at("name"), "forward\n\\");
  EXPECT_DOUBLE_EQ(events[2].at("ts").to_number<double>(), 1.5e6);
  EXPECT_DOUBLE_EQ(events[2].at("dur").to_number<double>(), 0.25);
  EXPECT_EQ(events[2].at("tid"), 1);
  const auto& args = events[2].at("args");
  EXPECT_EQ(args.at("layer").to_number<int>(), 3);
  EXPECT_DOUBLE_EQ(args.at("GFLOPS").to_number<double>(), 1);
  EXPECT_DOUBLE_EQ(args.at("GB/s").to_number<double>(), 6);

  TraceWriter empty(folder / "empty.json");
  empty.commit();
  EXPECT_TRUE(core::read_json_file(folder / "empty.json").at("traceEvents").as_array().empty());
}

TEST(Trace, HoldsTheSpansThatAreOver) {
  finback::testing::TempFolder folder;
  core::Spans spans(4);
  {
    const core::SpanScope step(&spans, "step", 2);
    const core::SpanScope part(&spans, "part");
  }
  const core::SpanScope open(&spans, "open");
  write_trace(folder / "trace.json", spans);
  const auto json = core::read_json_file(folder / "trace.json");
  const auto& events = json.at("traceEvents").as_array();
  ASSERT_EQ(events.size(), 3u);  // the first names the process
  EXPECT_EQ(events[1].at("name"), "step");
  EXPECT_EQ(events[1].at("ts").to_number<double>(), 0);
  EXPECT_EQ(events[2].at("name"), "part");
  EXPECT_EQ(events[2].at("args").at("layer").to_number<int>(), 2);
}

}  // namespace
}  // namespace finback::formats
