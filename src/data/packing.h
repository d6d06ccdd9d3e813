// Best-fit packing: pieces of documents into sequences with as little cut and as little left empty as possible
// (Ding et al., "Fewer Truncations Improve Language Modeling", ICML 2024; [V3 §4.1]).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace finback::data {

// Which pieces share a sequence.
struct Packing {
  std::vector<std::uint64_t> first;   // [sequences + 1]: where each sequence's pieces begin in `pieces`
  std::vector<std::uint32_t> pieces;  // [pieces], ascending within a sequence

  std::int64_t sequences() const { return static_cast<std::int64_t>(first.size()) - 1; }
  std::span<const std::uint32_t> of(std::int64_t sequence) const {
    const auto s = static_cast<std::size_t>(sequence);
    return std::span(pieces).subspan(first[s], first[s + 1] - first[s]);
  }
};

// Best-fit decreasing: the longest piece first, each into the fullest sequence that still has room. 1 ≤ length ≤ capacity,
// fewer than 2^32 pieces. O(pieces · log capacity); depends on the lengths alone.
Packing pack_best_fit(std::span<const std::int32_t> lengths, std::int32_t capacity);

}  // namespace finback::data
