#include "data/permutation.h"

#include <gtest/gtest.h>

#include <vector>

namespace finback::data {
namespace {

TEST(Permutation, VisitsEachNumberOnce) {
  for (const std::uint64_t size : {1ull, 2ull, 3ull, 4ull, 5ull, 63ull, 64ull, 65ull, 1000ull, 4097ull}) {
    for (std::uint64_t key = 0; key < 5; ++key) {
      const Permutation order(size, key);
      std::vector<int> seen(size);
      for (std::uint64_t i = 0; i < size; ++i) {
        ASSERT_LT(order(i), size);
        ++seen[order(i)];
      }
      for (const int n : seen) ASSERT_EQ(n, 1);
    }
  }
}

TEST(Permutation, DependsOnTheKeyAndScattersNeighbours) {
  constexpr std::uint64_t kSize = 10000;
  const Permutation a(kSize, 1), b(kSize, 2);
  int same = 0, adjacent = 0, fixed = 0;
  for (std::uint64_t i = 0; i < kSize; ++i) {
    same += a(i) == b(i);
    fixed += a(i) == i;
    if (i + 1 < kSize) adjacent += a(i + 1) == a(i) + 1;
  }
  // Each of the three counts is near Poisson with mean 1 for a random order.
  EXPECT_LT(same, 10);
  EXPECT_LT(fixed, 10);
  EXPECT_LT(adjacent, 10);
}

TEST(Permutation, ReachesLargeSizes) {
  const Permutation order(std::uint64_t{1} << 62, 7);
  EXPECT_LT(order((std::uint64_t{1} << 62) - 1), std::uint64_t{1} << 62);
  EXPECT_NE(order(0), order(1));
}

}  // namespace
}  // namespace finback::data
