#include "data/synthetic.h"

#include "core/rng.h"

namespace finback::data {

void fill_synthetic(std::uint64_t seed, std::int64_t vocab_size, std::int64_t position, std::span<std::int32_t> inputs,
                    std::span<std::int32_t> targets) {
  constexpr std::uint64_t kShifts = 4;
  const core::Rng rng(core::Rng(seed, core::Stream::synthetic).bits(static_cast<std::uint64_t>(position)), core::Stream::synthetic);
  const auto vocabulary = static_cast<std::uint64_t>(vocab_size);
  const std::uint64_t shift = rng.below(0, kShifts);
  std::uint64_t before = rng.below(1, vocabulary), last = rng.below(2, vocabulary);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const std::uint64_t at = 3 + 2 * static_cast<std::uint64_t>(i);
    const std::uint64_t next = rng.uniform(at) < 0.1 ? rng.below(at + 1, vocabulary) : (last % 64 * 5 + before % 8 + shift) % vocabulary;
    inputs[i] = static_cast<std::int32_t>(last);
    targets[i] = static_cast<std::int32_t>(next);
    before = last;
    last = next;
  }
}

}  // namespace finback::data
