// The traced table: every call is a span with its work, and computes what the table inside computes.
#include "kernels/traced.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string_view>
#include <vector>

namespace finback::kernels {
namespace {

TEST(TracedTable, WrapsEveryFunction) {
  const TracedTable traced(best());
  EXPECT_EQ(traced.name, best().name);
  constexpr std::size_t kFunctions = (sizeof(Table) - sizeof(std::string_view)) / sizeof(void*);
  const auto functions = [](const Table& t) {
    std::vector<void*> pointers(kFunctions);
    std::memcpy(pointers.data(), reinterpret_cast<const std::byte*>(&t) + sizeof(std::string_view), kFunctions * sizeof(void*));
    return pointers;
  };
  const auto outer = functions(traced), inner = functions(best());
  for (std::size_t i = 0; i < kFunctions; ++i) {
    EXPECT_NE(outer[i], inner[i]) << "function " << i;
    for (std::size_t j = 0; j < i; ++j) EXPECT_NE(outer[i], outer[j]) << "functions " << i << " and " << j;
  }
}

TEST(TracedTable, RecordsAndComputes) {
  const TracedTable traced(best());
  core::Team team(2);
  core::Arena scratch("scratch", scratch_bytes(2));
  core::Spans spans(16);
  const Context ctx{traced, team, scratch, &spans};

  std::vector<float> a(96, 1.5f), b(96, 2), y(96);
  const auto mat = [](std::vector<float>& v) { return Mat{v.data(), DType::f32, 4, 24, 24}; };
  ctx.kernels.add(ctx, mat(a), mat(b), mat(y));
  for (const float x : y) EXPECT_EQ(x, 3.5f);
  EXPECT_EQ(ctx.kernels.sum_squares(ctx, {a.data(), DType::f32, 1, 96, 96}), 96 * 2.25);
  std::vector<float> w(6 * 24, 1), z(4 * 6);
  const std::vector<std::int64_t> all = {0, 4};
  ctx.kernels.linear_forward(ctx, mat(a), {w.data(), DType::f32, 1, 6, 24}, all, {}, {z.data(), DType::f32, 4, 6, 6});
  EXPECT_EQ(z[0], 36);

  ASSERT_EQ(spans.count(), 3);
  EXPECT_EQ(std::string_view(spans[0].name), "add");
  EXPECT_EQ(spans[0].work.read, 2 * 96 * 4);
  EXPECT_EQ(spans[0].work.written, 96 * 4);
  EXPECT_EQ(std::string_view(spans[1].name), "sum_squares");
  EXPECT_EQ(spans[1].work.read, 96 * 4);
  EXPECT_EQ(spans[2].work.flops, 2 * 4 * 6 * 24);
  EXPECT_EQ(spans[2].work.read, (96 + 6 * 24) * 4);

  // Without a ring it is the table inside.
  const Context untraced{traced, team, scratch};
  untraced.kernels.add(untraced, mat(b), mat(b), mat(y));
  EXPECT_EQ(y[95], 4);
  EXPECT_EQ(spans.count(), 3);
}

// Forward, the two products over the causal half of the scores; backward 2.5 times that.
TEST(TracedTable, CountsTheCausalHalfOfAttention) {
  const TracedTable traced(best());
  core::Team team(1);
  core::Arena scratch("scratch", scratch_bytes(1)), memory("memory", 1 << 16);
  core::Spans spans(2);
  const Context ctx{traced, team, scratch, &spans};
  const auto mat = [&](std::int64_t cols) { return memory.take_mat(DType::f32, 20, cols); };
  const AttentionShape s{.heads = 3, .nope = 4, .rope = 2, .value = 5};
  const Mat q = mat(18), kv = mat(27), k_pe = mat(2), o = mat(15), lse = mat(3), dq = mat(18), dkv = mat(27), dk_pe = mat(2);
  const std::vector<Segment> segments = {{.q_row = 0, .rows = 10, .kv_row = 0}, {.q_row = 10, .rows = 10, .kv_row = 10}};
  ctx.kernels.attention_forward(ctx, q, kv, k_pe, segments, s, o, lse);
  ctx.kernels.attention_backward(ctx, q, kv, k_pe, o, lse, o, segments, s, dq, dkv, dk_pe);
  EXPECT_EQ(spans[0].work.flops, 2 * (6 + 5) * (10 * 10 / 2) * 3 * 2);
  EXPECT_EQ(spans[0].work.read, 20 * (18 + 27 + 2) * 4);
  EXPECT_EQ(spans[1].work.flops, 2.5 * spans[0].work.flops);
}

}  // namespace
}  // namespace finback::kernels
