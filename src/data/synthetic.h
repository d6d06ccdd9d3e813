// Tokens made by rule, for runs without a text: data.train = ["synthetic"]. Each token follows from the two before it and the sequence's
// own shift, but for one in ten that is drawn at random, so there is something to learn and a least loss to reach.
#pragma once

#include <cstdint>
#include <span>

namespace finback::data {

inline constexpr char kSynthetic[] = "synthetic";

// Sequence `position` of a run: seq_len inputs and, one place on, targets. A function of its arguments.
void fill_synthetic(std::uint64_t seed, std::int64_t vocab_size, std::int64_t position, std::span<std::int32_t> inputs,
                    std::span<std::int32_t> targets);

}  // namespace finback::data
