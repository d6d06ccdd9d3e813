// Pages: who holds them, what is found again, and what goes first when room is needed.
#include "infer/page_pool.h"

#include "kernels/kernels.h"

#include <gtest/gtest.h>

namespace finback::infer {
namespace {

std::vector<std::int32_t> tokens(std::int32_t first) {
  std::vector<std::int32_t> t(kernels::kPage, 7);
  t.back() = first;
  return t;
}

TEST(PagePool, HandsOutEachPageOnce) {
  PagePool pool(5);
  std::vector<bool> seen(5);
  for (int i = 0; i < 5; ++i) {
    const auto page = static_cast<std::size_t>(pool.take());
    EXPECT_FALSE(seen[page]);
    seen[page] = true;
  }
  EXPECT_EQ(pool.available(), 0);
  pool.release(3);
  EXPECT_EQ(pool.available(), 1);
  EXPECT_EQ(pool.take(), 3);
}

TEST(PagePool, FindsAPageByItsTokensAndWhatStandsBefore) {
  PagePool pool(4);
  const auto a = pool.take(), b = pool.take();
  const auto first = pool.publish(a, PagePool::kStart, tokens(1)), second = pool.publish(b, first, tokens(2));
  EXPECT_EQ(pool.find(PagePool::kStart, tokens(1)), a);
  EXPECT_EQ(pool.find(first, tokens(2)), b);
  EXPECT_EQ(pool.prefix(b), second);
  EXPECT_EQ(pool.find(PagePool::kStart, tokens(2)), PagePool::kNone);  // the same tokens elsewhere
  EXPECT_EQ(pool.find(first, tokens(1)), PagePool::kNone);
}

TEST(PagePool, AnEqualPageKeepsTheFirstOnesName) {
  PagePool pool(4);
  const auto a = pool.take(), b = pool.take();
  const auto prefix = pool.publish(a, PagePool::kStart, tokens(1));
  EXPECT_EQ(pool.publish(b, PagePool::kStart, tokens(1)), prefix);
  pool.release(b);
  EXPECT_EQ(pool.find(PagePool::kStart, tokens(1)), a);
}

TEST(PagePool, GivesUpTheLeastRecentlyUsedAndNeverAHeldOne) {
  PagePool pool(3);
  PagePool::Page page[3];
  for (int i = 0; i < 3; ++i) {
    page[i] = pool.take();
    pool.publish(page[i], PagePool::kStart, tokens(i));
  }
  pool.hold(page[0]);  // twice
  for (int i = 0; i < 3; ++i) pool.release(page[i]);
  EXPECT_EQ(pool.available(), 2);
  pool.hold(page[1]);  // used again
  pool.release(page[1]);
  EXPECT_EQ(pool.take(), page[2]);
  EXPECT_EQ(pool.find(PagePool::kStart, tokens(2)), PagePool::kNone);
  EXPECT_EQ(pool.find(PagePool::kStart, tokens(1)), page[1]);
  EXPECT_EQ(pool.take(), page[1]);
  EXPECT_EQ(pool.available(), 0);
  EXPECT_EQ(pool.find(PagePool::kStart, tokens(0)), page[0]);
}

}  // namespace
}  // namespace finback::infer
