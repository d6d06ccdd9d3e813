// Text as it comes: what is shown joins to the answer, whatever its pieces, and never holds half a code point or part of a stop string.
#include "infer/text_stream.h"

#include "core/rng.h"

#include <gtest/gtest.h>

namespace finback::infer {
namespace {

TEST(TextStream, ShowsWholeCodePoints) {
  TextStream stream;
  EXPECT_EQ(stream.put("a\xe2"), "a");
  EXPECT_EQ(stream.put("\x82"), "");
  EXPECT_EQ(stream.put("\xac!"), "\xe2\x82\xac!");
  EXPECT_EQ(stream.put("\xf0\x9f"), "");
  EXPECT_EQ(stream.end(), "\xf0\x9f");
}

TEST(TextStream, EndsBeforeAStopStringThatComesInPieces) {
  TextStream stream({"END", "\n\n", ""});
  EXPECT_EQ(stream.put("one E"), "one ");
  EXPECT_EQ(stream.put("N"), "");
  EXPECT_EQ(stream.put("T\n"), "ENT");
  EXPECT_FALSE(stream.stopped());
  EXPECT_EQ(stream.put("x"), "\nx");
  EXPECT_EQ(stream.put("EN"), "");
  EXPECT_EQ(stream.put("D and more"), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.put("more"), "");
  EXPECT_EQ(stream.end(), "");
}

// Random texts over a small alphabet, cut anywhere, against a search in the whole.
TEST(TextStream, IsASearchInTheWholeText) {
  const std::vector<std::string> stops = {"abca", "bb", "aaaa"};
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    const core::Rng rng(seed, core::Stream::test);
    std::string text;
    for (std::uint64_t i = 0; i < 60; ++i) text += static_cast<char>('a' + rng.below(i, 4));
    std::size_t first = text.size();
    for (const std::string& s : stops) first = std::min(first, text.find(s));
    TextStream stream(stops);
    std::string shown;
    for (std::size_t at = 0, n = 0; at < text.size() && !stream.stopped(); at += n) {
      n = 1 + rng.below(1000 + at, 5);
      shown += stream.put(std::string_view(text).substr(at, n));
    }
    shown += stream.end();
    EXPECT_EQ(shown, text.substr(0, first)) << seed;
  }
}

}  // namespace
}  // namespace finback::infer
