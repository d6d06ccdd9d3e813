#include "data/permutation.h"

#include "core/error.h"
#include "core/rng.h"

#include <bit>

namespace finback::data {

Permutation::Permutation(std::uint64_t size, std::uint64_t key)
    : size_(size), key_{static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)} {
  FB_CHECK(size >= 1 && size <= std::uint64_t{1} << 62, "{}", size);
  half_bits_ = size == 1 ? 1 : (static_cast<unsigned>(std::bit_width(size - 1)) + 1) / 2;
}

std::uint64_t Permutation::operator()(std::uint64_t index) const {
  FB_CHECK(index < size_, "{} of {}", index, size_);
  constexpr std::uint32_t kRounds = 6;
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  // Fewer than four tries on average: the network's domain is less than four times `size`.
  do {
    std::uint64_t left = index >> half_bits_, right = index & mask;
    for (std::uint32_t round = 0; round < kRounds; ++round) {
      const auto mixed = core::philox4x32({static_cast<std::uint32_t>(right), 0, round, 0}, key_);
      const std::uint64_t next = left ^ (mixed[0] & mask);
      left = right;
      right = next;
    }
    index = (left << half_bits_) | right;
  } while (index >= size_);
  return index;
}

}  // namespace finback::data
