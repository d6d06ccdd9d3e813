#include "core/team.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

namespace finback::core {
namespace {

class TeamTest : public ::testing::TestWithParam<int> {};

TEST_P(TeamTest, EveryTaskRunsOnceAndIsSeenAfterwards) {
  Team team(GetParam());
  EXPECT_EQ(team.threads(), GetParam());
  for (int round = 0; round < 40; ++round) {
    for (const std::int64_t tasks : {0, 1, 2, 7, 64}) {
      std::vector<int> runs(static_cast<std::size_t>(tasks));  // plain ints: a second runner or a missing fence shows under tsan
      std::atomic<int> bad_threads{0};
      parallel_for(team, tasks, [&](std::int64_t task, int thread) {
        ++runs[static_cast<std::size_t>(task)];
        if (thread < 0 || thread >= team.threads()) ++bad_threads;
      });
      EXPECT_EQ(std::accumulate(runs.begin(), runs.end(), std::int64_t{0}), tasks);
      for (const int r : runs) ASSERT_EQ(r, 1);
      ASSERT_EQ(bad_threads, 0);
    }
  }
}

TEST_P(TeamTest, TheOwnerPollsBetweenTasks) {
  Team team(GetParam());
  struct Polls {
    std::thread::id owner = std::this_thread::get_id();
    int count = 0;
    bool elsewhere = false;
  } polls;
  team.set_poll(
      [](void* p) {
        auto& q = *static_cast<Polls*>(p);
        ++q.count;
        q.elsewhere |= std::this_thread::get_id() != q.owner;
      },
      &polls);
  // A task that only ends when the owner has polled: the owner runs at least one task, or waits and polls meanwhile.
  parallel_for(team, 8, [](std::int64_t) { std::this_thread::yield(); });
  EXPECT_GT(polls.count, 0);
  EXPECT_FALSE(polls.elsewhere);
  team.set_poll(nullptr, nullptr);
  const int before = polls.count;
  parallel_for(team, 8, [](std::int64_t) {});
  EXPECT_EQ(polls.count, before);
}

TEST_P(TeamTest, SleepsAndWakes) {
  Team team(GetParam());
  std::atomic<int> n{0};
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // longer than the workers spin
    parallel_for(team, 4, [&](std::int64_t) { ++n; });
  }
  EXPECT_EQ(n, 12);
}

INSTANTIATE_TEST_SUITE_P(Threads, TeamTest, ::testing::Values(1, 2, 3, 8));

}  // namespace
}  // namespace finback::core
