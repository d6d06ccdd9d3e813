#include "data/fim.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace finback::data {
namespace {

TEST(Fim, MovesTheMiddleToTheEndAndBack) {
  const FimTokens marks{.begin = 100, .hole = 101, .end = 102};
  const std::vector<std::int32_t> text{1, 2, 3, 4, 5};
  for (std::size_t a = 0; a <= text.size(); ++a) {
    for (std::size_t b = a; b <= text.size(); ++b) {
      std::vector<std::int32_t> out{7};
      append_fim(text, a, b, marks, 9, out);
      ASSERT_EQ(static_cast<std::int64_t>(out.size()), 1 + static_cast<std::int64_t>(text.size()) + kFimExtra);
      ASSERT_EQ(out[0], 7);
      ASSERT_EQ(out[1], 100);
      ASSERT_EQ(out.back(), 9);
      const auto hole = std::find(out.begin(), out.end(), 101), end = std::find(out.begin(), out.end(), 102);
      std::vector<std::int32_t> joined(out.begin() + 2, hole);  // prefix
      joined.insert(joined.end(), end + 1, out.end() - 1);      // middle
      joined.insert(joined.end(), hole + 1, end);               // suffix
      ASSERT_EQ(joined, text);
    }
  }
}

}  // namespace
}  // namespace finback::data
