#include "text/unicode.h"

#include <gtest/gtest.h>

namespace finback::text {
namespace {

TEST(Unicode, TableHasTheNumbersOfUnicode16) {
  // DerivedGeneralCategory-16.0.0.txt's totals, private use and surrogates aside.
  std::array<int, 12> count{};
  for (std::uint32_t c = 0; c < kCodePoints; ++c)
    for (int bit = 0; bit < 12; ++bit) count[static_cast<std::size_t>(bit)] += (ClassTable::get().of(c) >> bit) & 1;
  EXPECT_EQ(count[0], 1858);    // Lu
  EXPECT_EQ(count[1], 2258);    // Ll
  EXPECT_EQ(count[2], 31);      // Lt
  EXPECT_EQ(count[3], 404);     // Lm
  EXPECT_EQ(count[4], 136477);  // Lo
  EXPECT_EQ(count[5], 2501);    // M
  EXPECT_EQ(count[6], 1911);    // N
  EXPECT_EQ(count[7], 855);     // P
  EXPECT_EQ(count[8], 8514);    // S
  EXPECT_EQ(count[9], 25);      // White_Space
  EXPECT_EQ(count[10], 99030);  // Han
  EXPECT_EQ(count[11], 2);
}

TEST(Unicode, DecodingTakesValidUtf8Alone) {
  const auto decoded = [](std::string_view s) { return decode_utf8(s.data(), s.data() + s.size()); };
  for (std::uint32_t c = 0; c < kCodePoints; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string s;
    append_utf8(s, c);
    const CodePoint back = decoded(s);
    ASSERT_EQ(back.code, c);
    ASSERT_EQ(back.length, s.size());
    for (std::size_t n = 1; n < s.size(); ++n) ASSERT_EQ(decoded(std::string_view(s).substr(0, n)).code, kInvalid) << c;
  }
  for (const char* bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xED\xBF\xBF", "\xF0\x80\x80\x80",
                          "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xC3(", "\xE2\x82("}) {
    EXPECT_EQ(decoded(bad).code, kInvalid);
    EXPECT_EQ(decoded(bad).length, 1u);
  }
}

TEST(Unicode, ByteLevelTextGoesThereAndBack) {
  std::string all, back;
  for (int b = 0; b < 256; ++b) all += static_cast<char>(b);
  const std::string text = to_byte_level(all);
  EXPECT_EQ(to_byte_level(" \n!"), "ĠĊ!");
  ASSERT_TRUE(from_byte_level(text, back));
  EXPECT_EQ(back, all);
  EXPECT_FALSE(from_byte_level("｜", back));
  EXPECT_FALSE(from_byte_level(" ", back));
  EXPECT_EQ(byte_level_order()[0], '!');
  EXPECT_EQ(byte_level_order()[188], 0);
}

}  // namespace
}  // namespace finback::text
