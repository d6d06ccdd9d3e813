// What a call is counted as, and that it stays under the ceiling.
#include "measure/attention.h"

#include <gtest/gtest.h>

namespace finback::measure {
namespace {

TEST(AttentionSpeed, CountsTheCausalHalf) {
  const Attention a{.sequences = 2, .length = 10, .shape = {.heads = 3, .nope = 4, .rope = 2, .value = 5}};
  EXPECT_EQ(flops(a), 2 * (6 + 5) * (10 * 10 / 2) * 3 * 2);
}

TEST(AttentionSpeed, NeitherHalfIsAboveItsCeiling) {
  core::Team team(1);
  for (const core::DType dtype : {core::DType::f32, core::DType::bf16})
    for (const bool backward : {false, true}) {
      const Speed s = attention(kernels::best(), team, {.sequences = 2, .length = 64, .dtype = dtype, .backward = backward}, 0.02);
      EXPECT_GT(s.repetitions, 0);
      EXPECT_GT(s.gflops, 0);
      EXPECT_LT(s.share_of_ceiling, 1.05);  // both are measured: a few percent of noise
    }
}

}  // namespace
}  // namespace finback::measure
