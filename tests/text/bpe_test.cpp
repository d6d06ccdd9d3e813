// Both ways of merging against the definition: of all adjacent pairs the lowest rank, leftmost first, one at a time.
#include "text/bpe.h"

#include "core/rng.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace finback::text {
namespace {

constexpr int kLetters = 3;

std::array<std::int32_t, 256> byte_ids() {
  std::array<std::int32_t, 256> ids;
  for (int b = 0; b < 256; ++b) ids[static_cast<std::size_t>(b)] = b;
  return ids;
}

// Random pairs of earlier tokens. `by_token` gives every pair that makes a token the rank of that token, as tiktoken does;
// then a merge may make a pair that goes before it.
std::vector<Merge> random_merges(const core::Rng& rng, std::uint64_t& draw, bool by_token) {
  std::vector<std::string> tokens;
  for (int l = 0; l < kLetters; ++l) tokens.emplace_back(1, static_cast<char>('a' + l));
  std::vector<Merge> merges;
  std::map<std::pair<std::int32_t, std::int32_t>, bool> known;
  std::map<std::string, std::int32_t> ids;
  const auto id = [&](const std::string& t) { return t.size() == 1 ? static_cast<std::int32_t>(t[0]) : ids.at(t); };
  while (tokens.size() < 30) {
    const std::string left = tokens[rng.below(draw++, tokens.size())], right = tokens[rng.below(draw++, tokens.size())];
    if (ids.contains(left + right) || (left + right).size() > 12) continue;
    const auto into = static_cast<std::int32_t>(256 + tokens.size());
    ids[left + right] = into;
    tokens.push_back(left + right);
    if (!by_token) merges.push_back({id(left), id(right), into, static_cast<std::uint32_t>(merges.size())});
  }
  if (by_token)
    for (const auto& [token, into] : ids)
      for (std::size_t cut = 1; cut < token.size(); ++cut) {
        const std::string left = token.substr(0, cut), right = token.substr(cut);
        const bool both = (left.size() == 1 || ids.contains(left)) && (right.size() == 1 || ids.contains(right));
        // Ranks are shuffled, so that parts may rank behind the whole.
        if (both) merges.push_back({id(left), id(right), into, static_cast<std::uint32_t>(into * 7 % 64)});
      }
  return merges;
}

std::vector<std::int32_t> by_definition(const BpeModel& model, std::string_view piece) {
  std::vector<std::int32_t> ids;
  for (const char c : piece) ids.push_back(model.byte_id(static_cast<unsigned char>(c)));
  for (;;) {
    BpeModel::Found best;
    std::size_t at = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i)
      if (const auto found = model.find(ids[i], ids[i + 1]); found.rank < best.rank) {
        best = found;
        at = i;
      }
    if (best.rank == BpeModel::kNone) return ids;
    ids[at] = best.into;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

TEST(Bpe, BothWaysAreTheDefinition) {
  const core::Rng rng(3, core::Stream::test);
  std::uint64_t draw = 0;
  for (int model_number = 0; model_number < 40; ++model_number) {
    const BpeModel model(byte_ids(), random_merges(rng, draw, /*by_token=*/model_number % 2 == 1));
    PieceEncoder encoder(model);
    for (int n = 0; n < 60; ++n) {
      std::string piece;
      const std::uint64_t length = 1 + rng.below(draw++, 60), letters = 1 + rng.below(draw++, kLetters);
      for (std::uint64_t i = 0; i < length; ++i) piece += static_cast<char>('a' + rng.below(draw++, letters));
      const auto expected = by_definition(model, piece);
      std::vector<std::int32_t> brief, lengthy, cached;
      encoder.encode_short(piece, brief);
      encoder.encode_long(piece, lengthy);
      encoder.encode(piece, cached);
      cached.clear();
      encoder.encode(piece, cached);  // now from the cache, if it fits
      ASSERT_EQ(brief, expected) << piece;
      ASSERT_EQ(lengthy, expected) << piece;
      ASSERT_EQ(cached, expected) << piece;
    }
  }
}

// The cache must tell apart pieces that share their first and last bytes, at every length.
TEST(Bpe, CacheNeverTakesOnePieceForAnother) {
  const core::Rng rng(4, core::Stream::test);
  std::uint64_t draw = 0;
  const BpeModel model(byte_ids(), random_merges(rng, draw, false));
  PieceEncoder encoder(model);
  for (int n = 0; n < 200000; ++n) {
    std::string piece(1 + rng.below(draw++, 40), 'a');
    for (int change = 0; change < 2; ++change) {
      const std::uint64_t at = rng.below(draw++, piece.size());
      piece[at] = static_cast<char>('a' + rng.below(draw++, 2));
    }
    std::vector<std::int32_t> cached, direct;
    encoder.encode(piece, cached);
    encoder.encode_short(piece, direct);
    ASSERT_EQ(cached, direct) << piece;
  }
}

TEST(Bpe, LongPiecesAreRepetitionsOfShortOnes) {
  // aa, aaaa, aaaaaaaa: a run of n letters is n / 8 tokens and the binary digits of the rest.
  const std::vector<Merge> merges = {{'a', 'a', 256, 0}, {256, 256, 257, 1}, {257, 257, 258, 2}};
  const BpeModel model(byte_ids(), merges);
  PieceEncoder encoder(model);
  std::vector<std::int32_t> ids;
  encoder.encode(std::string(1000007, 'a'), ids);
  ASSERT_EQ(ids.size(), 125000u + 3);
  EXPECT_EQ(ids[0], 258);
  EXPECT_EQ(ids[124999], 258);
  EXPECT_EQ((std::vector<std::int32_t>(ids.end() - 3, ids.end())), (std::vector<std::int32_t>{257, 256, 'a'}));
}

}  // namespace
}  // namespace finback::text
