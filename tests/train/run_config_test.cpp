#include "train/run_config.h"

#include "core/error.h"
#include "core/file.h"

#include <gtest/gtest.h>

#include <random>

namespace finback::train {
namespace {

const std::string kMinimal =
    "[model]\nconfig = \"m.json\"\n[data]\ntrain = [\"a.bin\"]\ntokenizer = \"t.json\"\n[output]\ndir = \"runs/x\"\n";

RunConfig parse(const std::string& text, std::vector<std::string> overrides = {}) { return parse_run_config(text, "x.toml", overrides); }

std::string error_of(const std::string& text, std::vector<std::string> overrides = {}) {
  try {
    parse(text, std::move(overrides));
  } catch (const core::Error& e) {
    EXPECT_EQ(e.code(), core::Exit::usage);
    return e.what();
  }
  return "no error";
}

bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

TEST(RunConfig, MinimalFileGetsDefaults) {
  const RunConfig c = parse(kMinimal);
  EXPECT_EQ(c.model.config, "m.json");
  EXPECT_EQ(c.data.train, std::vector<std::string>{"a.bin"});
  EXPECT_EQ(c.optimizer.beta2, 0.95);
  EXPECT_EQ(c.train.precision, "bf16");
}

TEST(RunConfig, FixedNamesOfTheShippedFilesAreRead) {
  for (const char* name : {"tiny", "small", "deepseek-v3"}) {
    const RunConfig c = read_run_config(fmt::format("{}/configs/runs/{}.toml", FINBACK_SOURCE_DIR, name));
    EXPECT_EQ(c.mtp.loss_weight, 0.3) << name;
    EXPECT_EQ(c.optimizer.grad_clip, 1.0) << name;
  }
}

TEST(RunConfig, UnknownKeyNamesTheNearestWithFileAndLine) {
  const std::string e = error_of(kMinimal + "[optimizer]\nlr = 1e-3\nwarm_up_steps = 10\n");
  EXPECT_TRUE(has(e, "optimizer.warm_up_steps")) << e;
  EXPECT_TRUE(has(e, "x.toml:10")) << e;
  EXPECT_TRUE(has(e, "did you mean 'optimizer.warmup_steps'")) << e;
  EXPECT_TRUE(has(error_of(kMinimal + "[optimiser]\nlr = 1e-3\n"), "'optimizer.lr'"));
  EXPECT_TRUE(has(error_of(kMinimal + "[train]\nlr = 1e-3\n"), "'optimizer.lr'"));
  EXPECT_TRUE(has(error_of("seq_len = 5\n" + kMinimal), "'data.seq_len'"));
  EXPECT_TRUE(has(error_of(kMinimal, {"moe.bias_speed=1"}), "'moe.bias_update_speed'"));
  EXPECT_TRUE(has(error_of(kMinimal + "[nonsense]\n"), "unknown key 'nonsense.'"));
}

TEST(RunConfig, ValuesOutOfRangeAreRefusedWithTheRange) {
  EXPECT_TRUE(has(error_of(kMinimal + "[train]\nsteps = 0\n"), "'train.steps' is out of range, x.toml:9, give 1 to"));
  EXPECT_TRUE(has(error_of(kMinimal + "[optimizer]\nlr = nan\n"), "out of range"));
  EXPECT_TRUE(has(error_of(kMinimal + "[optimizer]\nlr = \"fast\"\n"), "give a number"));
  EXPECT_TRUE(has(error_of(kMinimal + "[train]\nprecision = \"fp16\"\n"), "one of bf16|fp8|fp32|fp64"));
  EXPECT_TRUE(has(error_of(kMinimal + "[train]\nprecision = \"bf16|fp32\"\n"), "out of range"));
  EXPECT_TRUE(has(error_of(kMinimal + "[parallel]\npp = 0\n"), "out of range"));
  EXPECT_TRUE(has(error_of(kMinimal, {"data.fim_rate=1.5"}), "--set data.fim_rate=1.5"));
}

TEST(RunConfig, KeysThatDisagreeAreRefused) {
  EXPECT_TRUE(has(error_of("[model]\nconfig = \"m\"\n"), "'data.train' is missing"));
  EXPECT_TRUE(has(error_of(kMinimal + "[train]\nglobal_batch = 10\nmicro_batch = 4\n"), "does not divide"));
  EXPECT_TRUE(has(error_of(kMinimal, {"optimizer.min_lr=1"}), "min_lr 1 is above lr"));
  EXPECT_TRUE(has(error_of(kMinimal, {"data.weights=[1,2]"}), "differ in length"));
  EXPECT_TRUE(has(error_of(kMinimal, {"train.ramp_from=6"}), "ramp_from"));
  for (const char* storage : {"fp8", "paper"})
    EXPECT_TRUE(
        has(error_of(kMinimal, {fmt::format("train.activation_storage={}", storage)}), "set precision to fp8, or activation_storage"));
  EXPECT_TRUE(has(error_of(kMinimal, {"fp8.gradient_format=e5m2"}), "[fp8] is set and train.precision is bf16"));
  EXPECT_TRUE(has(error_of(kMinimal, {"train.precision=fp8", "fp8.accumulate_bits=12"}), "give 0 (FP32) or 14"));
  EXPECT_TRUE(has(error_of(kMinimal, {"train.precision=fp8", "fp8.promote=false"}), "sums are FP32 already"));
}

TEST(RunConfig, TheSwitchesOfFp8BecomeAPrecision) {
  EXPECT_FALSE(precision_of(parse(kMinimal)).fp8);
  const model::Fp8 published = *precision_of(parse(kMinimal, {"train.precision=fp8", "train.activation_storage=paper"})).fp8;
  EXPECT_EQ(published.accumulation.bits, 0);
  EXPECT_EQ(published.gradient_format, core::DType::e4m3);
  EXPECT_FALSE(published.gradient_blocks || published.power_of_two_scales);
  const model::Fp8 other =
      *precision_of(parse(kMinimal, {"train.precision=fp8", "fp8.accumulate_bits=14", "fp8.promote=false", "fp8.gradient_format=e5m2",
                                     "fp8.gradient_tile=128x128", "fp8.power_of_two_scales=true"}))
           .fp8;
  EXPECT_EQ(other.accumulation.bits, 14);
  EXPECT_FALSE(other.accumulation.promote);
  EXPECT_EQ(other.gradient_format, core::DType::e5m2);
  EXPECT_TRUE(other.gradient_blocks && other.power_of_two_scales);
}

TEST(RunConfig, OverridesWinAndStringsNeedNoQuotes) {
  const RunConfig c = parse(kMinimal, {"output.dir=runs/with space", "train.steps=1e3", "optimizer.lr=2",
                                       "data.train=[\"p.bin\", \"q.bin\"]", "output.tensorboard=false"});
  EXPECT_EQ(c.output.dir, "runs/with space");
  EXPECT_EQ(c.train.steps, 1000);
  EXPECT_EQ(c.optimizer.lr, 2.0);
  EXPECT_EQ(c.data.train.size(), 2u);
  EXPECT_FALSE(c.output.tensorboard);
  EXPECT_TRUE(has(error_of(kMinimal, {"train.steps"}), "section.key=value"));
  EXPECT_TRUE(has(error_of(kMinimal, {"output.dir=x\nvalue2 = 3"}), "no error"));  // text, not a second key
}

TEST(RunConfig, WhatIsWrittenReadsBack) {
  RunConfig c = parse(kMinimal, {"optimizer.lr=0.1", "output.dir=runs/\"q\" \\ \xc3\xa9", "data.weights=[2.5]"});
  const std::string text = to_toml(c);
  EXPECT_EQ(to_toml(parse(text)), text);
  EXPECT_EQ(parse(text).output.dir, c.output.dir);
}

TEST(RunConfig, CheckPrintsEveryKeyAndTheGuideExplainsIt) {
  const std::string shown = describe(parse(kMinimal));
  const std::string guide = core::read_file(std::string(FINBACK_SOURCE_DIR) + "/docs/training.md", 1 << 20);
  for (const std::string& key : run_config_keys()) {
    const std::string name = key.substr(key.find('.') + 1);
    EXPECT_TRUE(has(shown, "\n" + name + " ")) << key;
    EXPECT_TRUE(has(guide, "`" + name + "`")) << key << " is not in docs/training.md";
  }
}

// Any bytes give a config or an Error, never anything else.
TEST(RunConfig, MutatedFilesNeverCrash) {
  const std::string base = core::read_file(std::string(FINBACK_SOURCE_DIR) + "/configs/runs/tiny.toml", 1 << 20);
  std::mt19937 rng(7);
  int errors = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string text = base;
    for (unsigned k = 0, n = 1 + rng() % 4; k < n; ++k) {
      const std::size_t at = rng() % text.size();
      if (rng() % 2) text[at] = static_cast<char>(rng());
      else text.erase(at, rng() % 20);
    }
    try {
      parse(text);
    } catch (const core::Error& e) {
      EXPECT_EQ(e.code(), core::Exit::usage);
      ++errors;
    }
  }
  EXPECT_GT(errors, 500);
  EXPECT_THROW(parse(std::string(100'000, '[')), core::Error);
  EXPECT_THROW(parse("a = " + std::string(100'000, '[')), core::Error);
}

}  // namespace
}  // namespace finback::train
