#include "core/spans.h"

#include <gtest/gtest.h>

#include <string_view>

namespace finback::core {
namespace {

TEST(Spans, NestAndInheritTheLayer) {
  Spans spans(8);
  {
    const SpanScope outer(&spans, "block", 3);
    { const SpanScope inner(&spans, "product", -1, {.flops = 8}); }
    { const SpanScope other(&spans, "mtp", 4); }
  }
  { const SpanScope after(&spans, "loss"); }
  ASSERT_EQ(spans.count(), 4);
  EXPECT_EQ(std::string_view(spans[1].name), "product");
  EXPECT_EQ(spans[0].parent, -1);
  EXPECT_EQ(spans[1].parent, 0);
  EXPECT_EQ(spans[2].parent, 0);
  EXPECT_EQ(spans[3].parent, -1);
  EXPECT_EQ(spans[1].layer, 3);
  EXPECT_EQ(spans[2].layer, 4);
  EXPECT_EQ(spans[3].layer, -1);
  EXPECT_EQ(spans[1].work.flops, 8);
  EXPECT_LE(spans[0].begin, spans[1].begin);
  EXPECT_LE(spans[1].end, spans[2].begin);
  EXPECT_LE(spans[2].end, spans[0].end);
  EXPECT_LE(spans[0].end, spans[3].begin);
}

TEST(Spans, TheLastAreHeld) {
  Spans spans(4);
  {
    const SpanScope outer(&spans, "run", 7);
    for (int i = 0; i < 9; ++i) {
      const SpanScope step(&spans, "step");
      const SpanScope part(&spans, "part");
    }
  }  // which is held no more
  { const SpanScope after(&spans, "after"); }
  EXPECT_EQ(spans.count(), 20);
  EXPECT_EQ(spans.first(), 16);
  EXPECT_EQ(std::string_view(spans[17].name), "step");
  EXPECT_EQ(spans[18].parent, 17);
  EXPECT_GE(spans[17].end, spans[18].end);
  EXPECT_EQ(std::string_view(spans[19].name), "after");
  EXPECT_EQ(spans[19].parent, -1);
}

TEST(Spans, NothingIsRecordedWithoutARing) {
  const SpanScope scope(nullptr, "step");  // would read through the null
}

}  // namespace
}  // namespace finback::core
