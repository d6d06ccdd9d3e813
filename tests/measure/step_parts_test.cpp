// A trace of real steps: its parts must make up the step.
#include "measure/step_parts.h"

#include "core/clock.h"
#include "core/json.h"
#include "measure/train_bench.h"
#include "tests/formats/temp_folder.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace finback::measure {
namespace {

TEST(StepParts, OfTinySumToWithinThreePercentOfTheStep) {
  finback::testing::TempFolder folder;
  TrainBenchOptions o;
  o.model = FINBACK_SOURCE_DIR "/configs/models/tiny.json";
  o.batch = 2, o.seq_len = 128, o.steps = 4;
  o.trace = folder / "trace.json";
  const TrainBench r = *bench_train(o);
  EXPECT_GT(r.parts.named(), 0.97 * r.parts.seconds) << describe(r.parts);
  EXPECT_LE(r.parts.named(), r.parts.seconds * (1 + 1e-9));

  // The whole recipe is there, and its operations are those that the model's shape tells.
  const auto has = [&](const char* phase, const char* name) {
    return std::any_of(r.parts.parts.begin(), r.parts.parts.end(), [&](const StepPart& p) { return p.phase == phase && p.name == name; });
  };
  EXPECT_TRUE(has("attention", "attention_forward"));
  EXPECT_TRUE(has("experts_backward", "linear_backward_input"));
  EXPECT_TRUE(has("head", "cross_entropy"));
  EXPECT_TRUE(has("gradient_norm", "sum_squares"));
  EXPECT_TRUE(has("update_weights", "adamw"));
  double flops = 0;
  for (const StepPart& p : r.parts.parts) flops += p.work.flops;
  // Recomputation (up-projections) comes on top; attention is counted as 3.5 times its forward instead of 3.
  const double counted = r.model_flops_per_token * 256;
  EXPECT_GT(flops, counted);
  EXPECT_LT(flops, 1.1 * counted);

  // The file's events lie in the steps: one to warm up and four.
  const auto json = core::read_json_file(o.trace);
  std::int64_t steps = 0, of_layer_5 = 0;
  for (const auto& e : json.at("traceEvents").as_array()) {
    if (e.at("ph") != "X") continue;
    steps += e.at("name") == "step";
    const auto* layer = e.at("args").as_object().if_contains("layer");
    of_layer_5 += layer && layer->to_number<double>() == 5;
  }
  EXPECT_EQ(steps, 5);
  EXPECT_GT(of_layer_5, 5 * 30);
}

TEST(StepParts, TheFastestWholeStepCounts) {
  core::Spans spans(64);
  const auto wait = [](double seconds) {
    for (const double end = core::seconds_now() + seconds; core::seconds_now() < end;) {
    }
  };
  EXPECT_TRUE(fastest_step(spans).parts.empty());
  for (const double seconds : {0.3, 0.002}) {
    const core::SpanScope step(&spans, "step");
    const core::SpanScope phase(&spans, "phase");
    {
      const core::SpanScope part(&spans, "long", -1, {.flops = 1e6, .read = 2e6, .written = 3e6});
      wait(seconds);
    }
    { const core::SpanScope part(&spans, "short"); }
  }
  const core::SpanScope open(&spans, "step");  // not whole: not the fastest
  const StepParts step = fastest_step(spans);
  ASSERT_EQ(step.parts.size(), 2u);
  EXPECT_EQ(step.parts[0].name, "long");
  EXPECT_EQ(step.parts[0].phase, "phase");
  EXPECT_EQ(step.parts[0].calls, 1);
  EXPECT_EQ(step.parts[0].work.read, 2e6);
  EXPECT_GE(step.parts[0].seconds, 0.002);
  EXPECT_LT(step.seconds, 0.3);
  EXPECT_NE(describe(step).find("phase: long"), std::string::npos);
}

}  // namespace
}  // namespace finback::measure
