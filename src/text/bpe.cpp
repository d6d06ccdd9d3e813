#include "text/bpe.h"

#include "core/error.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace finback::text {
namespace {

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a ^ 0x9E3779B97F4A7C15) * (b ^ 0xD1B54A32D192ED03);
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

std::uint64_t pair_hash(std::int32_t left, std::int32_t right) {
  return mix(static_cast<std::uint32_t>(left), static_cast<std::uint64_t>(static_cast<std::uint32_t>(right)) << 20);
}

template <class T>
std::uint64_t load(const char* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// Up to 32 bytes as four words that differ for different bytes of one length: overlapping loads, nothing read outside.
std::array<std::uint64_t, 4> key_of(const char* p, std::size_t n) {
  if (n > 16) return {load<std::uint64_t>(p), load<std::uint64_t>(p + 8), load<std::uint64_t>(p + n - 16), load<std::uint64_t>(p + n - 8)};
  if (n >= 8) return {load<std::uint64_t>(p), load<std::uint64_t>(p + n - 8), 0, 0};
  if (n >= 4) return {load<std::uint32_t>(p), load<std::uint32_t>(p + n - 4), 0, 0};
  if (n >= 2) return {load<std::uint16_t>(p), load<std::uint16_t>(p + n - 2), 0, 0};
  return {static_cast<unsigned char>(*p), 0, 0, 0};
}

}  // namespace

BpeModel::BpeModel(const std::array<std::int32_t, 256>& byte_ids, std::span<const Merge> merges) : byte_ids_(byte_ids) {
  slots_.resize(std::bit_ceil(std::max<std::size_t>(16, merges.size() * 2)));
  const std::size_t mask = slots_.size() - 1;
  for (const Merge& m : merges) {
    FB_CHECK(m.rank != kNone && m.left >= 0 && m.right >= 0, "merge {} {}", m.left, m.right);
    std::size_t i = pair_hash(m.left, m.right) & mask;
    while (slots_[i].left >= 0) {
      FB_CHECK(slots_[i].left != m.left || slots_[i].right != m.right, "pair {} {} twice", m.left, m.right);
      i = (i + 1) & mask;
    }
    slots_[i] = {m.left, m.right, {m.rank, m.into}};
    ranks_ = std::max(ranks_, m.rank + 1);
  }
}

BpeModel::Found BpeModel::find(std::int32_t left, std::int32_t right) const {
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t i = pair_hash(left, right) & mask;; i = (i + 1) & mask) {
    const Slot& slot = slots_[i];
    if (slot.left == left && slot.right == right) return slot.found;
    if (slot.left < 0) return {};
  }
}

PieceEncoder::PieceEncoder(const BpeModel& model) : model_(model), cache_(kCacheSlots) {}

void PieceEncoder::encode(std::string_view piece, std::vector<std::int32_t>& out) {
  if (piece.size() > kCachedBytes) return piece.size() <= kShortBytes ? encode_short(piece, out) : encode_long(piece, out);
  const auto key = key_of(piece.data(), piece.size());
  const std::uint64_t hash = mix(mix(key[0], key[1]) ^ piece.size(), key[2] ^ std::rotl(key[3], 32));
  Cached& slot = cache_[hash & (kCacheSlots - 1)];
  if (slot.bytes == piece.size() && slot.key == key) {
    out.insert(out.end(), slot.ids.begin(), slot.ids.begin() + slot.tokens);
    return;
  }
  const std::size_t before = out.size();
  encode_short(piece, out);
  const std::size_t n = out.size() - before;
  if (n > kCachedTokens) return;
  slot.key = key;
  slot.bytes = static_cast<std::uint8_t>(piece.size());
  slot.tokens = static_cast<std::uint8_t>(n);
  std::copy_n(out.begin() + static_cast<std::ptrdiff_t>(before), n, slot.ids.begin());
}

void PieceEncoder::encode_short(std::string_view piece, std::vector<std::int32_t>& out) {
  constexpr std::size_t kMost = std::max(kShortBytes, kCachedBytes);
  FB_CHECK(piece.size() <= kMost, "{} bytes", piece.size());
  std::array<std::int32_t, kMost> token;
  std::array<BpeModel::Found, kMost> pair;  // pair[i]: of token[i] and token[i + 1]
  std::size_t n = piece.size();
  for (std::size_t i = 0; i < n; ++i) token[i] = model_.byte_id(static_cast<unsigned char>(piece[i]));
  for (std::size_t i = 0; i + 1 < n; ++i) pair[i] = model_.find(token[i], token[i + 1]);
  while (n > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < n; ++i)
      if (pair[i].rank < pair[best].rank) best = i;
    if (pair[best].rank == BpeModel::kNone) break;
    token[best] = pair[best].into;
    for (std::size_t i = best + 1; i + 1 < n; ++i) {
      token[i] = token[i + 1];
      pair[i] = pair[i + 1];
    }
    --n;
    if (best > 0) pair[best - 1] = model_.find(token[best - 1], token[best]);
    if (best + 1 < n) pair[best] = model_.find(token[best], token[best + 1]);
  }
  out.insert(out.end(), token.begin(), token.begin() + n);
}

void PieceEncoder::push(std::uint32_t rank, std::uint32_t position) {
  Bucket& bucket = buckets_[rank];
  if (bucket.positions.empty()) {
    filled_[rank / 64] |= std::uint64_t{1} << rank % 64;
    filled_groups_[rank / 4096] |= std::uint64_t{1} << rank / 64 % 64;
  } else if (position < bucket.positions.back()) {
    bucket.sorted = false;
  }
  bucket.positions.push_back(position);
}

std::uint32_t PieceEncoder::lowest_rank() const {
  for (std::size_t g = 0; g < filled_groups_.size(); ++g)
    if (filled_groups_[g] != 0) {
      const std::size_t word = g * 64 + static_cast<std::size_t>(std::countr_zero(filled_groups_[g]));
      return static_cast<std::uint32_t>(word * 64 + static_cast<std::size_t>(std::countr_zero(filled_[word])));
    }
  return BpeModel::kNone;
}

void PieceEncoder::encode_long(std::string_view piece, std::vector<std::int32_t>& out) {
  constexpr std::uint32_t kNone = BpeModel::kNone;
  const auto n = static_cast<std::uint32_t>(piece.size());
  FB_CHECK(piece.size() < kNone, "a piece of {} bytes", piece.size());
  if (n == 0) return;
  if (buckets_.empty()) {
    buckets_.resize(model_.ranks());
    filled_.resize(model_.ranks() / 64 + 1);
    filled_groups_.resize(model_.ranks() / 4096 + 1);
  }
  token_.resize(n);
  rank_.assign(n, kNone);  // of the pair that begins at a position, whose queue entry is valid while it equals
  next_.resize(n);
  previous_.resize(n);
  const auto look_up = [&](std::uint32_t i) {
    const std::uint32_t j = next_[i];
    rank_[i] = j < n ? model_.find(token_[i], token_[j]).rank : kNone;
    if (rank_[i] != kNone) push(rank_[i], i);
  };
  for (std::uint32_t i = 0; i < n; ++i) {
    token_[i] = model_.byte_id(static_cast<unsigned char>(piece[i]));
    next_[i] = i + 1;
    previous_[i] = i - 1;  // kNone at 0
  }
  for (std::uint32_t i = 0; i < n; ++i) look_up(i);

  for (std::uint32_t rank = lowest_rank(); rank != kNone; rank = lowest_rank()) {
    Bucket& bucket = buckets_[rank];
    if (!bucket.sorted) std::sort(bucket.positions.begin() + static_cast<std::ptrdiff_t>(bucket.done), bucket.positions.end());
    bucket.sorted = true;
    bool lower = false;  // a merge made a pair of a lower rank, which goes first
    while (bucket.done < bucket.positions.size() && !lower) {
      const std::uint32_t i = bucket.positions[bucket.done++];
      if (rank_[i] != rank) continue;
      const std::uint32_t j = next_[i];
      token_[i] = model_.find(token_[i], token_[j]).into;
      rank_[j] = kNone;
      next_[i] = next_[j];
      if (next_[i] < n) previous_[next_[i]] = i;
      if (i > 0) {
        look_up(previous_[i]);
        lower = rank_[previous_[i]] < rank;
      }
      look_up(i);
      lower |= rank_[i] < rank || !bucket.sorted;
    }
    if (bucket.done == bucket.positions.size()) {
      bucket = {};
      filled_[rank / 64] &= ~(std::uint64_t{1} << rank % 64);
      if (filled_[rank / 64] == 0) filled_groups_[rank / 4096] &= ~(std::uint64_t{1} << rank / 64 % 64);
    }
  }
  for (std::uint32_t i = 0; i < n; i = next_[i]) out.push_back(token_[i]);
}

}  // namespace finback::text
