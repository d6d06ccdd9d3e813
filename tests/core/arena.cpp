#include "core/arena.h"

#include "core/error.h"

#include <gtest/gtest.h>

#include <cstring>

namespace finback::core {
namespace {

TEST(Arena, CountingForesaysWhatIsTaken) {
  const auto plan = [](Arena& a) {
    a.take_array<float>(3);
    {
      ArenaScope scope(a);
      a.take(1000);
    }
    return a.take_mat(DType::bf16, 5, 7);
  };
  Arena count = Arena::counting();
  EXPECT_FALSE(plan(count));
  EXPECT_EQ(count.high_water(), 64 + 1024);
  EXPECT_EQ(count.used(), 64 + 128);
  Arena arena("test", count.high_water());
  EXPECT_EQ(arena.capacity(), count.high_water());
  const Mat m = plan(arena);
  EXPECT_EQ(m.rows, 5);
  EXPECT_EQ(m.stride, 7);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(m.data) % 64, 0u);
  EXPECT_EQ(arena.used(), count.used());
  EXPECT_EQ(arena.high_water(), count.high_water());
}

TEST(Arena, MemoryIsZeroWritableAndMoves) {
  Arena a("test", 3 << 20);
  auto* p = a.take_array<unsigned char>(3 << 20);
  for (int i = 0; i < 3 << 20; ++i) ASSERT_EQ(p[i], 0);
  std::memset(p, 1, 3 << 20);
  Arena b(std::move(a));
  EXPECT_EQ(p[(3 << 20) - 1], 1);
  EXPECT_EQ(b.name(), "test");
}

TEST(Arena, OneThatGrowsKeepsWhatItHandedOut) {
  Arena a = Arena::growing("test", 1 << 20);
  auto* first = a.take_array<char>(1 << 20);
  EXPECT_EQ(a.spilled(), 0);
  std::memset(first, 1, 1 << 20);
  const std::int64_t mark = a.mark();
  char* seen[2] = {};
  for (char*& there : seen) {  // and gives the same places again
    char* small = a.take_array<char>(100);
    char* big = a.take_array<char>(3 << 20);
    std::memset(small, 2, 100);
    std::memset(big, 3, 3 << 20);
    EXPECT_EQ(first[(1 << 20) - 1], 1);
    EXPECT_EQ(small[99], 2);
    there = big;
    a.release(mark);
  }
  EXPECT_EQ(seen[0], seen[1]);
  EXPECT_GE(a.spilled(), (3 << 20) + 100);
  EXPECT_LE(a.spilled(), 4 << 20);
  a.release(0);
  EXPECT_EQ(a.take(64), first);
}

TEST(ArenaDeathTest, ItsEndIsABugOfOurs) {
  Arena a("small", 100);
  a.take(128);
  EXPECT_DEATH(a.take(1), "arena 'small' is full");
  EXPECT_DEATH(a.take(-1), "-1 bytes");
}

TEST(Arena, MoreThanTheMachineHasIsAnError) {
  try {
    Arena a("huge", std::int64_t{1} << 60);
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Exit::failed);
    EXPECT_NE(std::string(e.what()).find("arena 'huge'"), std::string::npos);
  }
}

}  // namespace
}  // namespace finback::core
