#include "train/guard.h"

#include "core/rng.h"

#include <gtest/gtest.h>

#include <cmath>

namespace finback::train {
namespace {

TEST(Guard, ZScoreOfNormalNumbersIsThatOfTheirDistribution) {
  MovingMoments m;
  const core::Rng rng(3, core::Stream::test);
  for (std::uint64_t i = 0; i < 2000; ++i) m.add(5 + 0.5 * rng.normal(i), 200, 6);
  EXPECT_NEAR(m.mean, 5, 0.15);
  EXPECT_NEAR(std::sqrt(m.variance), 0.5, 0.1);
  EXPECT_NEAR(m.zscore(7.5, 200), 5, 1);
  EXPECT_LT(m.zscore(0, 200), 0);
}

TEST(Guard, NothingIsASpikeBeforeTheSeriesIsKnown) {
  MovingMoments m;
  for (int i = 0; i < 49; ++i) m.add(1, 100, 6);
  EXPECT_EQ(m.zscore(1e9, 100), 0);
  m.add(1, 100, 6);
  EXPECT_GT(m.zscore(1.1, 100), 6);
}

TEST(Guard, ASpikeDoesNotHideTheNextButANewLevelIsAccepted) {
  MovingMoments m;
  const core::Rng rng(4, core::Stream::test);
  for (std::uint64_t i = 0; i < 300; ++i) m.add(2 + 0.1 * rng.normal(i), 100, 6);
  m.add(1000, 100, 6);
  EXPECT_GT(m.zscore(1000, 100), 100);
  int steps = 0;
  while (m.zscore(4, 100) > 6 && steps < 100) m.add(4, 100, 6), ++steps;
  EXPECT_GT(steps, 1);
  EXPECT_LT(steps, 50);
}

}  // namespace
}  // namespace finback::train
