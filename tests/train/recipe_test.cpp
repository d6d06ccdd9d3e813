#include "train/recipe.h"

#include "core/rng.h"

#include <gtest/gtest.h>

#include <vector>

namespace finback::train {
namespace {

RunConfig published() { return read_run_config(std::string(FINBACK_SOURCE_DIR) + "/configs/runs/deepseek-v3.toml"); }

// [V3 §4.2]: every number below is the paper's, in tokens; the run file's are in steps.
TEST(Recipe, DeepSeekV3PublishedSchedule) {
  const RunConfig c = published();
  double tokens = 0;
  double at_10t = 0, at_14_3t = 0, at_14_633t = 0;
  std::int64_t step_10t = -1, step_14_3t = -1, step_14_633t = -1;
  double ramp_end = 0;
  for (std::int64_t s = 0; s < c.train.steps; ++s) {
    if (s == c.train.ramp_steps) ramp_end = tokens;
    if (step_10t < 0 && tokens >= 10e12) step_10t = s, at_10t = learning_rate(c, s - 100);
    if (step_14_3t < 0 && tokens >= 14.3e12) step_14_3t = s, at_14_3t = learning_rate(c, s + 1);
    if (step_14_633t < 0 && tokens >= 14.633e12) step_14_633t = s, at_14_633t = learning_rate(c, s + 2);
    tokens += static_cast<double>(batch_size(c, s)) * 4096;
  }
  EXPECT_NEAR(tokens, 14.8e12, 0.0005e12);
  EXPECT_NEAR(ramp_end, 469e9, 0.1e9);
  EXPECT_EQ(batch_size(c, 0), 3072);
  EXPECT_EQ(batch_size(c, 12424), 15360);
  EXPECT_DOUBLE_EQ(learning_rate(c, 999), 1.1e-4);
  EXPECT_DOUBLE_EQ(learning_rate(c, 1999), 2.2e-4);
  EXPECT_DOUBLE_EQ(at_10t, 2.2e-4);
  EXPECT_NEAR(static_cast<double>(step_10t), 163'916, 2);
  EXPECT_NEAR(learning_rate(c, step_10t + 68'347 / 2), (2.2e-4 + 2.2e-5) / 2, 1e-8);
  EXPECT_DOUBLE_EQ(at_14_3t, 2.2e-5);
  EXPECT_DOUBLE_EQ(at_14_633t, 7.3e-6);
  EXPECT_DOUBLE_EQ(learning_rate(c, c.train.steps - 1), 7.3e-6);
  EXPECT_EQ(bias_update_speed(c, step_14_3t - 2), 0.001);
  EXPECT_EQ(bias_update_speed(c, step_14_3t + 2), 0.0);
  EXPECT_EQ(mtp_loss_weight(c, step_10t - 2), 0.3);
  EXPECT_EQ(mtp_loss_weight(c, step_10t + 2), 0.1);
}

TEST(Recipe, BatchGrowsInMultiplesOfTheMicroBatch) {
  RunConfig c;
  c.train.global_batch = 48, c.train.micro_batch = 8, c.train.ramp_from = 16, c.train.ramp_steps = 10;
  std::int64_t before = 0;
  for (std::int64_t s = 0; s < 20; ++s) {
    const std::int64_t b = batch_size(c, s);
    EXPECT_EQ(b % 8, 0);
    EXPECT_GE(b, before);
    before = b;
  }
  EXPECT_EQ(batch_size(c, 0), 16);
  EXPECT_EQ(batch_size(c, 10), 48);
}

TEST(Recipe, ShapesOfTheDecay) {
  RunConfig c;
  c.train.steps = 100;
  c.optimizer.lr = 1, c.optimizer.min_lr = 0, c.optimizer.warmup_steps = 0, c.optimizer.schedule = "linear";
  EXPECT_DOUBLE_EQ(learning_rate(c, 0), 1);
  EXPECT_DOUBLE_EQ(learning_rate(c, 50), 0.5);
  c.optimizer.schedule = "cosine";
  EXPECT_DOUBLE_EQ(learning_rate(c, 50), 0.5);
  EXPECT_NEAR(learning_rate(c, 99), 0.000247, 1e-6);
  c.optimizer.schedule = "constant";
  EXPECT_DOUBLE_EQ(learning_rate(c, 99), 1);
  c.train.steps = 10, c.optimizer.warmup_steps = 50;  // a run shorter than its warm-up
  EXPECT_DOUBLE_EQ(learning_rate(c, 9), 0.2);
}

TEST(Recipe, BiasMovesBySignOfTheLoadAlone) {
  float bias[4] = {0, 0.5f, -0.5f, 0};
  const core::Mat b = core::mat(bias, core::DType::f32, 1, 4);
  update_gate_bias(std::vector<std::int64_t>{100, 1, 25, 0 - 0}, 0.001, b);  // mean 31.5
  EXPECT_FLOAT_EQ(bias[0], -0.001f);
  EXPECT_FLOAT_EQ(bias[1], 0.501f);
  EXPECT_FLOAT_EQ(bias[2], -0.499f);
  EXPECT_FLOAT_EQ(bias[3], 0.001f);
  float rest[4] = {0, 0, 0, 0};
  update_gate_bias(std::vector<std::int64_t>{7, 7, 7, 7}, 0.001, core::mat(rest, core::DType::f32, 1, 4));
  update_gate_bias(std::vector<std::int64_t>{0, 0, 0, 0}, 0.001, core::mat(rest, core::DType::f32, 1, 4));
  for (const float r : rest) EXPECT_EQ(r, 0);
}

// The rule's purpose: a gate with a built-in preference is levelled out, and the bias stays bounded while it is.
TEST(Recipe, BiasLevelsASkewedGate) {
  constexpr int kExperts = 8, kTokens = 512;
  float bias[kExperts] = {};
  const core::Mat b = core::mat(bias, core::DType::f32, 1, kExperts);
  const core::Rng noise(1, core::Stream::test);
  double imbalance = 0;
  for (int step = 0; step < 2000; ++step) {
    std::vector<std::int64_t> load(kExperts, 0);
    for (int t = 0; t < kTokens; ++t) {
      int best = 0;
      double best_score = -1e9;
      for (int e = 0; e < kExperts; ++e) {
        const double score = 0.2 * e / kExperts + 0.1 * noise.uniform(static_cast<std::uint64_t>(t * kExperts + e)) + bias[e];
        if (score > best_score) best_score = score, best = e;
      }
      ++load[static_cast<std::size_t>(best)];
    }
    if (step == 0) {
      EXPECT_GT(load_imbalance(load), 3);
    }
    imbalance = load_imbalance(load);
    update_gate_bias(load, 0.001, b);
  }
  EXPECT_LT(imbalance, 1.5);
  for (const float x : bias) EXPECT_LT(std::abs(x), 0.5f);
}

TEST(Recipe, Imbalance) {
  EXPECT_EQ(load_imbalance(std::vector<std::int64_t>{0, 0}), 0);
  EXPECT_EQ(load_imbalance(std::vector<std::int64_t>{4, 4}), 1);
  EXPECT_EQ(load_imbalance(std::vector<std::int64_t>{8, 0}), 2);
}

}  // namespace
}  // namespace finback::train
