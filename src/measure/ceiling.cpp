#include "measure/ceiling.h"

#include "core/arena.h"
#include "core/clock.h"
#include "kernels/kernels.h"
#include "kernels/probe.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

namespace finback::measure {
namespace {

const kernels::Probe& fastest() { return kernels::probe(kernels::runnable().back()); }

// The best rate, in 10^9 a second, of run() until the time is over; run() returns the amount done.
template <class Run>
double best_rate(double seconds, Run run) {
  double best = 0;
  const double end = core::seconds_now() + seconds;
  for (double begin = core::seconds_now(); begin < end;) {
    const double amount = run(), now = core::seconds_now();
    best = std::max(best, amount / (now - begin) * 1e-9);
    begin = now;
  }
  return best;
}

// A thread's share of a buffer, read as `streams` runs.
double read_rate(core::Team& team, const std::byte* data, std::int64_t bytes_a_thread, int streams, std::int64_t prefetch, double seconds) {
  static std::atomic<std::uint32_t> sink;
  return best_rate(seconds, [&] {
    core::parallel_for(team, team.threads(), [&](std::int64_t t) {
      sink.fetch_xor(fastest().read(data + t * bytes_a_thread, bytes_a_thread, streams, prefetch), std::memory_order_relaxed);
    });
    return static_cast<double>(bytes_a_thread) * team.threads();
  });
}

}  // namespace

double ceiling_of(core::Team& team, Rate rate, double seconds) {
  const kernels::Probe& probe = fastest();
  const auto run = rate == Rate::fp32 ? probe.fp32 : rate == Rate::bf16 ? probe.bf16 : probe.int8;
  // Many short tasks, as a kernel has: where a neighbour takes one core, the others go on.
  constexpr std::int64_t kRounds = 4000;  // some thirty microseconds
  const std::int64_t tasks = 8 * team.threads();
  return best_rate(seconds, [&] {
    std::atomic<double> operations = 0;
    core::parallel_for(team, tasks, [&](std::int64_t) { operations.fetch_add(run(kRounds)); });
    return operations.load();
  });
}

Ceiling ceiling(core::Team& team, double seconds) {
  Ceiling c;
  const double each = seconds / 5;
  c.fp32_gflops = ceiling_of(team, Rate::fp32, each);
  c.bf16_gflops = ceiling_of(team, Rate::bf16, each);
  c.int8_gops = ceiling_of(team, Rate::int8, each);

  const std::int64_t threads = team.threads();
  const std::int64_t bytes = std::max(std::int64_t{128} << 20, (std::int64_t{256} << 20) / threads);
  core::Arena arena("ceiling", bytes * threads);
  auto* data = static_cast<std::byte*>(arena.take(bytes * threads));
  core::parallel_for(team, threads, [&](std::int64_t t) { std::memset(data + t * bytes, 1, static_cast<std::size_t>(bytes)); });
  struct Pattern {
    int streams;
    std::int64_t prefetch;
  };
  constexpr Pattern kPatterns[] = {{1, 0}, {1, 512}, {1, 4096}, {2, 0}, {4, 0}, {4, 1024}};
  for (const auto [streams, prefetch] : kPatterns) {
    c.memory_gb_per_s = std::max(c.memory_gb_per_s, read_rate(team, data, bytes, streams, prefetch, each / std::size(kPatterns)));
    c.cache_gb_per_s =
        std::max(c.cache_gb_per_s, read_rate(team, data, std::int64_t{4} << 20, streams, prefetch, each / std::size(kPatterns)));
  }
  return c;
}

}  // namespace finback::measure
