// Fill-in-the-middle: a document is cut in three, and the middle is moved to the end, so that a left-to-right model learns to
// write what stands between two texts (Bavarian et al., arXiv 2207.14255, order PSM; [V3 §4.1]).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace finback::data {

// <|fim_begin|>, <|fim_hole|>, <|fim_end|>; −1: the tokenizer has none.
struct FimTokens {
  std::int32_t begin = -1, hole = -1, end = -1;
  bool complete() const { return begin >= 0 && hole >= 0 && end >= 0; }
};

// What a document of n tokens (its closing eos not counted) grows by: three marks and the eos after the middle.
constexpr std::int64_t kFimExtra = 4;

// Appends begin, content[0, a), hole, content[b, n), end, content[a, b), eos to `out`; 0 ≤ a ≤ b ≤ n.
void append_fim(std::span<const std::int32_t> content, std::size_t a, std::size_t b, const FimTokens& marks, std::int32_t eos,
                std::vector<std::int32_t>& out);

}  // namespace finback::data
