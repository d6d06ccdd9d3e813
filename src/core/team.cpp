#include "core/team.h"

#include "core/error.h"

#include <pthread.h>
#include <sched.h>

#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace finback::core {
namespace {

// How long a thread looks at a word before it sleeps on it: a step is thousands of short regions, and a futex wake-up
// costs more than most of them; but an idle team must not burn a core.
constexpr int kSpins = 20000;

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

struct Team::State {
  alignas(64) std::atomic<std::uint32_t> generation{0};
  alignas(64) std::atomic<std::int64_t> next{0};
  alignas(64) std::atomic<int> running{0};
  alignas(64) Task fn = nullptr;
  void* argument = nullptr;
  std::int64_t tasks = 0;
  bool stop = false;
  std::vector<std::thread> workers;

  // Here and not in ~Team, for the case that a thread cannot be had when others run already.
  ~State() {
    stop = true;
    generation.fetch_add(1, std::memory_order_release);
    generation.notify_all();
    for (auto& t : workers) t.join();
  }
};

Team::Team(int threads, bool pin) : threads_(threads), state_(std::make_unique<State>()) {
  FB_CHECK(threads >= 1, "{} threads", threads);
  for (int i = 1; i < threads; ++i) {
    state_->workers.emplace_back([this, i] { work(i); });
    if (pin && static_cast<unsigned>(threads) <= std::thread::hardware_concurrency()) {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(static_cast<std::size_t>(i), &set);
      pthread_setaffinity_np(state_->workers.back().native_handle(), sizeof set, &set);
    }
  }
}

Team::~Team() = default;

void Team::work(int thread) {
  State& s = *state_;
  std::uint32_t seen = 0;
  for (;;) {
    for (int i = 0; i < kSpins && s.generation.load(std::memory_order_acquire) == seen; ++i) relax();
    s.generation.wait(seen, std::memory_order_acquire);
    seen = s.generation.load(std::memory_order_acquire);
    if (s.stop) return;
    for (std::int64_t t; (t = s.next.fetch_add(1, std::memory_order_relaxed)) < s.tasks;) s.fn(s.argument, t, thread);
    if (s.running.fetch_sub(1, std::memory_order_acq_rel) == 1) s.running.notify_one();
  }
}

void Team::run(std::int64_t tasks, Task fn, void* argument) {
  if (tasks <= 0) return;
  if (threads_ == 1 || tasks == 1) {
    for (std::int64_t t = 0; t < tasks; ++t) {
      fn(argument, t, 0);
      if (poll_) poll_(poll_argument_);
    }
    return;
  }
  State& s = *state_;
  s.fn = fn;
  s.argument = argument;
  s.tasks = tasks;
  s.next.store(0, std::memory_order_relaxed);
  s.running.store(threads_ - 1, std::memory_order_relaxed);
  s.generation.fetch_add(1, std::memory_order_release);
  s.generation.notify_all();
  for (std::int64_t t; (t = s.next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
    fn(argument, t, 0);
    if (poll_) poll_(poll_argument_);
  }
  for (int i = 0;; ++i) {
    const int left = s.running.load(std::memory_order_acquire);
    if (left == 0) break;
    if (poll_) {
      poll_(poll_argument_);
    } else if (i < kSpins) {
      relax();
    } else {
      s.running.wait(left, std::memory_order_acquire);
    }
  }
}

}  // namespace finback::core
