#include "data/packing.h"

#include "core/error.h"

#include <bit>
#include <limits>

namespace finback::data {
namespace {

// A set of small numbers that finds its least member ≥ n: a tree of 64-bit words, a bit set when the word below is not 0.
class OrderedSet {
 public:
  explicit OrderedSet(std::size_t limit) {
    do {
      limit = (limit + 63) / 64;
      levels_.emplace_back(limit, 0);
    } while (limit > 1);
  }
  void insert(std::size_t n) {
    for (auto& level : levels_) {
      level[n / 64] |= std::uint64_t{1} << n % 64;
      n /= 64;
    }
  }
  void erase(std::size_t n) {
    for (auto& level : levels_) {
      if ((level[n / 64] &= ~(std::uint64_t{1} << n % 64)) != 0) return;
      n /= 64;
    }
  }
  // kNone when there is none.
  static constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
  std::size_t at_least(std::size_t n) const {
    for (std::size_t h = 0; h < levels_.size(); ++h) {
      if (n / 64 >= levels_[h].size()) return kNone;
      if (const std::uint64_t word = levels_[h][n / 64] >> n % 64) {
        n += static_cast<std::size_t>(std::countr_zero(word));
        while (h-- > 0) n = 64 * n + static_cast<std::size_t>(std::countr_zero(levels_[h][n]));
        return n;
      }
      n = n / 64 + 1;
    }
    return kNone;
  }

 private:
  std::vector<std::vector<std::uint64_t>> levels_;
};

// Pieces by decreasing length, in order within a length (a counting sort).
std::vector<std::uint32_t> by_decreasing_length(std::span<const std::int32_t> lengths, std::int32_t capacity) {
  std::vector<std::size_t> begin(static_cast<std::size_t>(capacity) + 2);
  for (const std::int32_t n : lengths) ++begin[static_cast<std::size_t>(capacity - n + 1)];
  for (std::size_t i = 1; i < begin.size(); ++i) begin[i] += begin[i - 1];
  std::vector<std::uint32_t> order(lengths.size());
  for (std::size_t p = 0; p < lengths.size(); ++p)
    order[begin[static_cast<std::size_t>(capacity - lengths[p])]++] = static_cast<std::uint32_t>(p);
  return order;
}

}  // namespace

Packing pack_best_fit(std::span<const std::int32_t> lengths, std::int32_t capacity) {
  FB_CHECK(capacity >= 1 && lengths.size() < std::numeric_limits<std::uint32_t>::max(), "{} {}", capacity, lengths.size());
  for (const std::int32_t n : lengths) FB_CHECK(n >= 1 && n <= capacity, "{} of {}", n, capacity);

  constexpr std::uint32_t kEnd = std::numeric_limits<std::uint32_t>::max();
  std::vector<std::uint32_t> sequence_of(lengths.size());
  std::vector<std::uint32_t> below;                                              // next sequence with the same room: stacks as linked lists
  std::vector<std::uint32_t> top(static_cast<std::size_t>(capacity) + 1, kEnd);  // of the stack for each room
  OrderedSet rooms(static_cast<std::size_t>(capacity) + 1);
  for (const std::uint32_t p : by_decreasing_length(lengths, capacity)) {
    const auto length = static_cast<std::size_t>(lengths[p]);
    std::size_t room = rooms.at_least(length);
    std::uint32_t sequence;
    if (room == OrderedSet::kNone) {
      room = static_cast<std::size_t>(capacity);
      sequence = static_cast<std::uint32_t>(below.size());
      below.push_back(kEnd);
    } else {
      sequence = top[room];
      top[room] = below[sequence];
      if (top[room] == kEnd) rooms.erase(room);
    }
    sequence_of[p] = sequence;
    if (room -= length; room > 0) {
      below[sequence] = top[room];
      top[room] = sequence;
      rooms.insert(room);
    }
  }

  Packing packing;
  packing.first.assign(below.size() + 1, 0);
  for (const std::uint32_t s : sequence_of) ++packing.first[s + 1];
  for (std::size_t s = 1; s < packing.first.size(); ++s) packing.first[s] += packing.first[s - 1];
  packing.pieces.resize(lengths.size());
  std::vector<std::uint64_t> next(packing.first.begin(), packing.first.end() - 1);
  for (std::size_t p = 0; p < lengths.size(); ++p) packing.pieces[next[sequence_of[p]]++] = static_cast<std::uint32_t>(p);
  return packing;
}

}  // namespace finback::data
