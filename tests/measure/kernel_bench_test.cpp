// Every kernel of a step that is no product has a case, and none is above its roof.
#include "measure/kernel_bench.h"

#include "core/error.h"
#include "kernels/kernels.h"
#include "measure/ceiling.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace finback::measure {
namespace {

KernelBenchOptions small(const char* precision) {
  KernelBenchOptions o;
  o.model = FINBACK_SOURCE_DIR "/configs/models/tiny.json";
  o.batch = 2, o.seq_len = 64, o.precision = precision, o.threads = {1}, o.seconds = 0.02;
  return o;
}

TEST(KernelBench, MeasuresEveryKernelUnderItsRoof) {
  std::set<std::string> names;
  for (const char* precision : {"bf16", "fp32"})
    for (const KernelSpeed& s : bench_kernels(small(precision))) {
      names.insert(s.name);
      EXPECT_GT(s.seconds, 0) << s.name;
      EXPECT_GT(s.rate, 0) << s.name;
      EXPECT_FALSE(s.ceiling.empty()) << s.name;
      EXPECT_GT(s.ceiling_rate, 0) << s.name;
    }
  const std::string all = kernels::coverage(kernels::best());
  std::size_t kernels = 0;
  for (std::size_t at = 0; at < all.size(); at = all.find('\n', at) + 1) {
    const std::string name = all.substr(at, all.find(' ', at) - at);
    const auto holds = [&](const char* word) { return name.find(word) != std::string::npos; };
    if (holds("linear") || holds("scaled") || holds("pack") || holds("quantize") || holds("e5m6") || holds("logfmt"))
      continue;  // products, and codes
    ++kernels;
    EXPECT_TRUE(names.contains(name)) << name;
  }
  EXPECT_EQ(names.size(), kernels);
}

TEST(KernelBench, MeasuresOneByName) {
  KernelBenchOptions o = small("bf16");
  o.only = "swiglu_f", o.threads = {1, 2};
  const auto speeds = bench_kernels(o);
  ASSERT_EQ(speeds.size(), 2u);
  EXPECT_EQ(speeds[1].name, "swiglu_forward");
  EXPECT_EQ(speeds[1].threads, 2);
  // 512 rows of 2 · 128 and their weights in, 128 out.
  EXPECT_NEAR(speeds[1].mib, 512 * (3 * 128 * 2 + 4) / double(1 << 20), 1e-3);
  o.only = "softmax";
  EXPECT_THROW(bench_kernels(o), core::Error);
}

TEST(TrafficCeiling, IsARateForEveryMixture) {
  core::Team team(2);
  for (const Traffic& t : {Traffic{1 << 20, 0, 0}, Traffic{0, 1 << 20, 0}, Traffic{0, 0, 1 << 20}, Traffic{300'000, 7'000, 100'000}}) {
    TrafficCeiling ceiling(team, t);
    EXPECT_GT(ceiling.rate(0.01), 0);
  }
}

}  // namespace
}  // namespace finback::measure
