#include "data/token_split.h"

#include <gtest/gtest.h>

namespace finback::data {
namespace {

TEST(TokenSplit, KnowsPunctuationJoinedToLineBreaks) {
  EXPECT_EQ(punctuation_before_breaks(".\n"), 1u);
  EXPECT_EQ(punctuation_before_breaks(" });\r\n\n"), 4u);
  EXPECT_EQ(punctuation_before_breaks("\xE3\x80\x82\n"), 3u);  // 。
  for (const char* other : {"", ".", "\n", "\n\n", " \n", "  \n", "a\n", "a.\n", "1\n", ".\na", ". \n", "\t.\n"})
    EXPECT_EQ(punctuation_before_breaks(other), 0u) << other;
}

TEST(TokenSplit, KeepsTheBytes) {
  const std::vector<std::string> tokens{"a", ".", "\n", ".\n", ";\n", "\n\n", ".\n\n", "<eos>"};
  const SplitTable table(tokens);
  EXPECT_EQ(table.size(), 2);  // ";" is no token
  for (std::int32_t id = -1; id < 10; ++id) {
    EXPECT_EQ(table.contains(id), id == 3 || id == 6) << id;
    if (table.contains(id)) {
      EXPECT_EQ(tokens[static_cast<std::size_t>(table.head(id))] + tokens[static_cast<std::size_t>(table.tail(id))],
                tokens[static_cast<std::size_t>(id)]);
    }
  }
  EXPECT_FALSE(SplitTable().contains(3));
}

}  // namespace
}  // namespace finback::data
