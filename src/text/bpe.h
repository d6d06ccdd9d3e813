// Byte pair encoding of one piece: of all adjacent pairs that merge, the one of the lowest rank, leftmost first, until none
// does (Sennrich et al. 2016). Short pieces by scanning for the lowest rank; long ones with a queue of buckets by rank, in
// time linear in their length but for the sorting of a bucket; recent ones from a bounded cache.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace finback::text {

struct Merge {
  std::int32_t left, right, into;  // token ids
  std::uint32_t rank;              // lower merges first
};

// What encoding needs of a vocabulary. Immutable, shared by all threads.
class BpeModel {
 public:
  // byte_ids[b]: the token of the single byte b. Every pair (left, right) stands once in `merges`.
  BpeModel(const std::array<std::int32_t, 256>& byte_ids, std::span<const Merge> merges);

  static constexpr std::uint32_t kNone = 0xFFFFFFFF;
  struct Found {
    std::uint32_t rank = kNone;  // kNone: the pair does not merge
    std::int32_t into = -1;
  };
  Found find(std::int32_t left, std::int32_t right) const;
  std::int32_t byte_id(unsigned char byte) const { return byte_ids_[byte]; }
  std::uint32_t ranks() const { return ranks_; }  // all ranks are below

 private:
  struct Slot {
    std::int32_t left = -1, right = -1;
    Found found;
  };
  std::array<std::int32_t, 256> byte_ids_;
  std::vector<Slot> slots_;  // open addressing, a power of two
  std::uint32_t ranks_ = 0;
};

// One thread's encoder.
class PieceEncoder {
 public:
  explicit PieceEncoder(const BpeModel& model);

  // Appends the tokens of the piece. Pieces have fewer than 2^32 bytes.
  void encode(std::string_view piece, std::vector<std::int32_t>& out);

  // The two ways, without the cache.
  void encode_short(std::string_view piece, std::vector<std::int32_t>& out);
  void encode_long(std::string_view piece, std::vector<std::int32_t>& out);

 private:
  static constexpr std::size_t kCachedBytes = 32, kCachedTokens = 7, kCacheSlots = 1 << 14, kShortBytes = 96;
  struct alignas(64) Cached {
    std::array<std::uint64_t, 4> key;
    std::uint8_t bytes = 0, tokens = 0;
    std::array<std::int32_t, kCachedTokens> ids;
  };
  struct Bucket {
    std::vector<std::uint32_t> positions;
    std::size_t done = 0;
    bool sorted = true;
  };
  void push(std::uint32_t rank, std::uint32_t position);
  std::uint32_t lowest_rank() const;

  const BpeModel& model_;
  std::vector<Cached> cache_;
  // Of the long way; empty buckets between calls.
  std::vector<std::int32_t> token_;
  std::vector<std::uint32_t> rank_, next_, previous_;
  std::vector<Bucket> buckets_;
  std::vector<std::uint64_t> filled_, filled_groups_;  // a bit per bucket, a bit per word of these
};

}  // namespace finback::text
