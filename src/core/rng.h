// Counter-based random numbers (Philox 4x32-10; Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
// A number is a pure function of (seed, stream, index): no state to save, none to share between threads or ranks.
#pragma once

#include <array>
#include <cstdint>

namespace finback::core {

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

// The streams of a run; a new use takes a new one, so that no two uses ever share numbers.
enum class Stream : std::uint32_t { init = 1, data_order = 2, fim = 3, token_split = 4, sample = 5, mixture = 6, test = 7, synthetic = 8 };

class Rng {
 public:
  // `substream` tells apart users of one stream (a tensor, a document).
  Rng(std::uint64_t seed, Stream stream, std::uint32_t substream = 0)
      : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
        stream_(static_cast<std::uint32_t>(stream)),
        substream_(substream) {}

  std::uint64_t bits(std::uint64_t index) const;
  double uniform(std::uint64_t index) const;                        // in (0, 1), never 0 nor 1
  double normal(std::uint64_t index) const;                         // mean 0, standard deviation 1 (Box–Muller)
  std::uint64_t below(std::uint64_t index, std::uint64_t n) const;  // in [0, n), unbiased to 2^-64

 private:
  std::array<std::uint32_t, 2> key_;
  std::uint32_t stream_, substream_;
};

}  // namespace finback::core
