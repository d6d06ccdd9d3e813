// Ranks as threads: every collective against plain loops, and ranks that throw, stall, disagree or leave something out.
#include "comm/threads.h"

#include "core/clock.h"
#include "core/team.h"
#include "tests/comm/collectives.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

namespace finback::comm {
namespace {

std::string error_of(int ranks, const Options& options, const std::function<void(Communicator&)>& body,
                     core::Exit code = core::Exit::distributed) {
  try {
    run_threads(ranks, options, body);
  } catch (const core::Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "no error";
}

bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

const Options kShort{.timeout = 0.4};

TEST(Threads, EveryCollective) {
  for (const int ranks : {1, 2, 3, 8}) {
    for (const bool checksums : {false, true}) {
      if (checksums && ranks != 3) continue;
      std::vector<std::vector<float>> sums(static_cast<std::size_t>(ranks));
      run_threads(ranks, {.timeout = 60, .checksums = checksums}, [&](Communicator& c) {
        EXPECT_EQ(test::everything(c, sums[static_cast<std::size_t>(c.rank())]), "") << "rank " << c.rank() << " of " << ranks;
      });
      for (const auto& s : sums) EXPECT_EQ(s, sums[0]);
    }
  }
}

// The thread team's main thread moves an exchange forward between its tasks; none of them waits for it.
TEST(Threads, ATeamPolls) {
  run_threads(2, {.timeout = 60}, [](Communicator& c) {
    core::Team team(2);
    team.set_poll(Communicator::progress, &c);
    test::AllToAll exchange(c, 5);
    for (int step = 0; step < 20; ++step)
      core::parallel_for(team, 50, [](std::int64_t) { std::this_thread::sleep_for(std::chrono::microseconds(20)); });
    team.set_poll(nullptr, nullptr);
    exchange.request.wait();
    EXPECT_TRUE(exchange.right(c));
  });
}

TEST(Threads, ARankThatThrows) {
  const double begin = core::seconds_now();
  const std::string text = error_of(
      4, {.timeout = 60},
      [](Communicator& c) {
        std::vector<std::byte> big(1 << 20), in(4 << 20);
        const std::vector<std::int64_t> counts(4, 1 << 18);
        c.set_phase("saving");
        if (c.rank() == 2) throw core::Error(core::Exit::io, "the disk is full", "shard 2", "free some space");
        c.start_all_to_all(big, counts, in, counts).wait();
      },
      core::Exit::io);
  EXPECT_TRUE(holds(text, "rank 2 on ") && holds(text, " in phase 'saving': the disk is full, shard 2, free some space")) << text;
  EXPECT_LT(core::seconds_now() - begin, 10);
  EXPECT_THROW(run_threads(3, {.timeout = 60},
                           [](Communicator& c) {
                             if (c.rank() == 0) throw std::out_of_range("of any type");
                             c.barrier();
                           }),
               std::out_of_range);
}

// The buffers of a rank that throws go while others may be reading them.
TEST(Threads, ARankThatThrowsWithinAnExchange) {
  for (int round = 0; round < 20; ++round)
    EXPECT_TRUE(holds(error_of(
                          3, {.timeout = 60},
                          [&](Communicator& c) {
                            std::vector<std::byte> out(3 << 20), in(3 << 20);
                            const std::vector<std::int64_t> counts(3, 1 << 20);
                            Request r = c.start_all_to_all(out, counts, in, counts);
                            for (int i = 0; i < round; ++i) r.poll();
                            if (c.rank() == round % 3) throw core::Error(core::Exit::numeric, "NaN", "", "");
                            r.wait();
                            c.barrier();
                          },
                          core::Exit::numeric),
                      ": NaN"));
}

TEST(Threads, ARankThatStallsIsNamed) {
  const double begin = core::seconds_now();
  std::atomic<int> others{0};
  const std::string text = error_of(4, kShort, [&](Communicator& c) {
    c.set_phase(c.rank() == 1 ? "backward" : "forward");
    c.barrier();
    if (c.rank() == 1) {
      while (others < 3) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return;
    }
    // Rank 3 waits for the one that stalls, and the others for rank 3.
    struct Count {
      std::atomic<int>& n;
      ~Count() { ++n; }
    } count{others};
    int token = 0;
    c.start_receive(c.rank() == 3 ? 1 : 3, 0, std::as_writable_bytes(std::span(&token, 1))).wait();
  });
  EXPECT_TRUE(holds(text, "rank 1 on ") && holds(text, "silent") && holds(text, "'backward'") && holds(text, "--resume")) << text;
  EXPECT_LT(core::seconds_now() - begin, 5);
}

TEST(Threads, RanksThatWaitForEachOther) {
  const std::string text = error_of(3, kShort, [](Communicator& c) {
    int token = 0;
    c.start_receive((c.rank() + 1) % 3, 0, std::as_writable_bytes(std::span(&token, 1))).wait();
  });
  EXPECT_TRUE(holds(text, "wait for each other")) << text;
}

TEST(Threads, AMessageOfAnotherLength) {
  const std::string text = error_of(2, {.timeout = 60}, [](Communicator& c) {
    std::vector<std::byte> x(1000);
    if (c.rank() == 0) c.start_send(1, 0, x).wait();
    else c.start_receive(0, 0, std::span(x).first(999)).wait();
  });
  EXPECT_TRUE(holds(text, "rank 0 on ") && holds(text, "1000 bytes where 999")) << text;
}

TEST(Threads, AThreadThatNeverComesBack) {
  EXPECT_EXIT(run_threads(2, kShort,
                          [](Communicator& c) {
                            if (c.rank() == 1)
                              for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
                            c.barrier();
                          }),
              testing::ExitedWithCode(6), "rank 1 on .* silent");
}

// A request that is given up: the job ends, and says so.
TEST(Threads, ARequestGivenUp) {
  const std::string text = error_of(2, {.timeout = 60}, [](Communicator& c) {
    std::vector<std::byte> x(1 << 20);
    if (c.rank() == 0) {
      const Request r = c.start_send(1, 0, x);
    }
    c.barrier();
  });
  EXPECT_TRUE(holds(text, "given up")) << text;
}

// What comes through a simulated link is there when the link has had time for it, one message behind the other.
TEST(Threads, ALinkHoldsBackWhatComesThroughIt) {
  run_threads(2, {.timeout = 60, .link_bytes_per_second = 1e8, .link_delay = 2e-3}, [](Communicator& c) {
    std::vector<std::byte> out(500'000), in(1'000'000);
    const std::vector<std::int64_t> counts{250'000, 250'000};
    c.barrier();
    const double begin = core::seconds_now();
    Request first = c.start_all_to_all(out, counts, std::span(in).first(500'000), counts);
    Request second = c.start_all_to_all(out, counts, std::span(in).last(500'000), counts);
    first.wait();
    EXPECT_GE(core::seconds_now() - begin, 4.5e-3);
    second.wait();
    EXPECT_GE(core::seconds_now() - begin, 7e-3);
    EXPECT_GE(c.times().arrival - begin, 7e-3);
    EXPECT_GT(c.times().waiting, 0);
  });
}

}  // namespace
}  // namespace finback::comm
