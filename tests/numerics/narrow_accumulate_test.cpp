// Sums in fixed point of few bits.
#include "numerics/narrow_accumulate.h"

#include "core/rng.h"

#include <gtest/gtest.h>

#include <vector>

namespace finback::numerics {
namespace {

double sum_of(int bits, const std::vector<float>& a, const std::vector<float>& b) {
  NarrowSum sum(bits);
  std::vector<NarrowSum::Term> terms;
  for (std::size_t i = 0; i < a.size(); ++i) {
    terms.push_back(NarrowSum::product(a[i], b[i]));
    if (terms.size() == NarrowSum::kTerms || i + 1 == a.size()) {
      sum.add(terms);
      terms.clear();
    }
  }
  return sum.value();
}

TEST(NarrowSum, KeepsWhatFitsAndCutsOffTheRest) {
  // Unit 2^-13 beside a 1: what is smaller vanishes, on either side of zero, and nothing is rounded up.
  EXPECT_EQ(sum_of(14, {1, 0x1p-13f}, {1, 1}), 1 + 0x1p-13);
  EXPECT_EQ(sum_of(14, {1, 0x1.fp-14f}, {1, 1}), 1);
  EXPECT_EQ(sum_of(14, {1, -0x1.fp-14f}, {1, 1}), 1);
  EXPECT_EQ(sum_of(14, {-1, 0x1.8p-13f}, {1, 1}), -1 + 0x1p-13);
  EXPECT_EQ(sum_of(15, {1, 0x1.fp-14f}, {1, 1}), 1 + 0x1p-14);
  // Each term is cut off for itself: 31 of them leave nothing.
  std::vector<float> a(32, 0x1.8p-14f), ones(32, 1);
  a[0] = 1;
  EXPECT_EQ(sum_of(14, a, ones), 1);
}

TEST(NarrowSum, KeepsAsManyBitsOfTheSum) {
  // 2 + 2^-12 has 14 bits. 1 + 2^-13 and a second 1 need one more: it is cut off.
  EXPECT_EQ(sum_of(14, {1, 1, 0x1p-12f}, {1, 1, 1}), 2 + 0x1p-12);
  EXPECT_EQ(sum_of(14, {1, 1, 0x1p-13f}, {1, 1, 1}), 2);
}

TEST(NarrowSum, AlignsToTheExponentOfTheFactors) {
  // 1.5 · 1.5 = 2.25 counts with exponent 0: beside it 2^-13 stays, though 2.25 itself then keeps 14 bits from 2^1 down.
  EXPECT_EQ(sum_of(14, {1.5f, 0x1p-13f, 0x1p-13f}, {1.5f, 1, 1}), 2.25 + 0x1p-12);
  // As one number with exponent 1, as the running sum is, it leaves units of 2^-12 alone.
  NarrowSum sum(14);
  sum.add(std::vector{NarrowSum::product(1.5f, 1.5f)});
  sum.add(std::vector{NarrowSum::product(0x1p-13f, 1), NarrowSum::product(0x1p-13f, 1)});
  EXPECT_EQ(sum.value(), 2.25);
}

TEST(NarrowSum, EndsWhereTheSumOutgrowsTheTerms) {
  // Ones are added exactly up to 2^14; from there on the unit is 2 and a one is lost.
  const std::vector<float> ones(20000, 1);
  EXPECT_EQ(sum_of(14, std::vector<float>(ones.begin(), ones.begin() + 16384), ones), 16384);
  EXPECT_EQ(sum_of(14, ones, ones), 16384);
  EXPECT_EQ(sum_of(15, ones, ones), 20000);
}

TEST(NarrowSum, IsExactWhenTheBitsSuffice) {
  const core::Rng rng(1, core::Stream::test);
  std::vector<float> a, b;
  double want = 0;
  for (std::uint64_t i = 0; i < 256; ++i) {
    a.push_back(static_cast<float>(static_cast<int>(rng.below(2 * i, 31)) - 15));
    b.push_back(static_cast<float>(static_cast<int>(rng.below(2 * i + 1, 31)) - 15));
    want += static_cast<double>(a.back()) * static_cast<double>(b.back());
  }
  EXPECT_EQ(sum_of(24, a, b), want);
}

TEST(NarrowSum, NothingIsZeroAndNanStays) {
  NarrowSum sum(14);
  sum.add({});
  sum.add(std::vector{NarrowSum::product(0, 5)});
  EXPECT_EQ(sum.value(), 0);
  sum.add(std::vector{NarrowSum::product(NAN, 0)});
  sum.add(std::vector{NarrowSum::product(1, 1)});
  EXPECT_TRUE(std::isnan(sum.value()));
}

}  // namespace
}  // namespace finback::numerics
