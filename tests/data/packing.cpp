#include "data/packing.h"

#include "core/rng.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace finback::data {
namespace {

std::vector<std::int32_t> random_lengths(std::size_t n, std::int32_t capacity, std::uint64_t seed) {
  const core::Rng rng(seed, core::Stream::test);
  std::vector<std::int32_t> lengths(n);
  for (std::size_t i = 0; i < n; ++i) lengths[i] = 1 + static_cast<std::int32_t>(rng.below(i, static_cast<std::uint64_t>(capacity)));
  return lengths;
}

// Best-fit decreasing in its plainest form: try every open sequence.
std::vector<std::vector<std::int32_t>> plain_best_fit(std::vector<std::int32_t> lengths, std::int32_t capacity) {
  std::stable_sort(lengths.begin(), lengths.end(), std::greater<>());
  std::vector<std::vector<std::int32_t>> bins;
  std::vector<std::int32_t> rooms;
  for (const std::int32_t n : lengths) {
    std::size_t best = bins.size();
    for (std::size_t b = 0; b < bins.size(); ++b)
      if (rooms[b] >= n && (best == bins.size() || rooms[b] < rooms[best])) best = b;
    if (best == bins.size()) {
      bins.emplace_back();
      rooms.push_back(capacity);
    }
    bins[best].push_back(n);
    rooms[best] -= n;
  }
  return bins;
}

TEST(Packing, HoldsEachPieceOnceAndNoSequenceOverflows) {
  for (const std::int32_t capacity : {1, 2, 63, 64, 65, 4097}) {
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      const auto lengths = random_lengths(1000, capacity, seed);
      const Packing packing = pack_best_fit(lengths, capacity);
      std::vector<int> seen(lengths.size());
      for (std::int64_t s = 0; s < packing.sequences(); ++s) {
        const auto pieces = packing.of(s);
        ASSERT_FALSE(pieces.empty());
        ASSERT_TRUE(std::is_sorted(pieces.begin(), pieces.end()));
        std::int32_t sum = 0;
        for (const auto p : pieces) {
          ++seen[p];
          sum += lengths[p];
        }
        ASSERT_LE(sum, capacity);
      }
      for (const int n : seen) ASSERT_EQ(n, 1);
    }
  }
}

TEST(Packing, IsBestFitDecreasing) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const std::int32_t capacity = 50 + static_cast<std::int32_t>(seed) * 13;
    const auto lengths = random_lengths(300, capacity, seed);
    const Packing packing = pack_best_fit(lengths, capacity);
    // Which of two sequences with the same room takes a piece is free; the multiset of fillings is not.
    std::vector<std::int32_t> fillings, plain;
    for (std::int64_t s = 0; s < packing.sequences(); ++s) {
      fillings.push_back(0);
      for (const auto p : packing.of(s)) fillings.back() += lengths[p];
    }
    for (const auto& bin : plain_best_fit(lengths, capacity)) plain.push_back(std::accumulate(bin.begin(), bin.end(), 0));
    std::sort(fillings.begin(), fillings.end());
    std::sort(plain.begin(), plain.end());
    ASSERT_EQ(fillings, plain) << seed;
  }
}

TEST(Packing, LeavesLittleRoomInManyShortPieces) {
  const auto lengths = random_lengths(20000, 500, 3);
  const Packing packing = pack_best_fit(lengths, 2049);
  const auto tokens = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  EXPECT_EQ(packing.sequences(), (tokens + 2048) / 2049);  // the least that can hold them
}

TEST(Packing, OfNothingIsEmpty) { EXPECT_EQ(pack_best_fit({}, 10).sequences(), 0); }

}  // namespace
}  // namespace finback::data
