#include "measure/ceiling.h"

#include "core/arena.h"
#include "core/clock.h"
#include "core/machine.h"
#include "kernels/kernels.h"
#include "kernels/probe.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

namespace finback::measure {
namespace {

const kernels::Probe& in_use() { return kernels::probe(kernels::best().name); }

constexpr std::int64_t kReadStep = 16384;  // whole steps of a probe for up to four streams

// A thread's share of a buffer, read as `streams` runs.
double read_rate(core::Team& team, const std::byte* data, std::int64_t bytes_a_thread, int streams, std::int64_t prefetch, double seconds) {
  static std::atomic<std::uint32_t> sink;
  const kernels::Probe& probe = in_use();
  return best_rate(seconds, [&] {
    core::parallel_for(team, team.threads(), [&](std::int64_t t) {
      sink.fetch_xor(probe.read(data + t * bytes_a_thread, bytes_a_thread, streams, prefetch), std::memory_order_relaxed);
    });
    return static_cast<double>(bytes_a_thread) * team.threads();
  });
}

}  // namespace

std::int64_t beyond_caches() {
  const core::Machine machine = core::this_machine();
  constexpr std::int64_t kLeast = std::int64_t{256} << 20;  // also where the system does not tell
  const std::int64_t wanted = std::max(kLeast, 2 * machine.last_cache_bytes);
  return machine.available_bytes > 0 ? std::min(wanted, machine.available_bytes / 4) : wanted;
}

double best_rate(double seconds, const std::function<double()>& run) {
  double best = 0;
  const double end = core::seconds_now() + seconds;
  for (double begin = core::seconds_now(); begin < end;) {
    const double amount = run(), now = core::seconds_now();
    best = std::max(best, amount / (now - begin) * 1e-9);
    begin = now;
  }
  return best;
}

double ceiling_of(core::Team& team, Rate rate, double seconds) {
  const kernels::Probe& probe = in_use();
  const auto run = rate == Rate::fp32 ? probe.fp32 : rate == Rate::bf16 ? probe.bf16 : probe.int8;
  // Where pairs of bf16 take two instructions' time, as on some machines, widening them is no slower.
  const auto other = rate == Rate::bf16 ? probe.fp32 : run;
  std::int64_t turn = 0;
  // Many short tasks, as a kernel has: where a neighbour takes one core, the others go on.
  constexpr std::int64_t kRounds = 4000;  // some thirty microseconds
  const std::int64_t tasks = std::int64_t{8} * team.threads();
  return best_rate(seconds, [&] {
    const auto one = turn++ % 2 == 0 ? run : other;
    std::atomic<double> operations = 0;
    core::parallel_for(team, tasks, [&](std::int64_t) { operations.fetch_add(one(kRounds)); });
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
  const std::int64_t bytes = beyond_caches() / threads / kReadStep * kReadStep;
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

namespace {

// Each part of a task in whole steps of a probe.
constexpr std::int64_t kStep = 4096, kTaskBytes = 32 * kStep;

std::int64_t tasks_of(const Traffic& t) { return std::max<std::int64_t>(1, t.footprint() / kTaskBytes); }
std::int64_t in_steps(std::int64_t bytes, std::int64_t tasks) { return (bytes / tasks + kStep / 2) / kStep * kStep; }

}  // namespace

TrafficCeiling::TrafficCeiling(core::Team& team, const Traffic& traffic)
    : team_(team),
      task_{in_steps(traffic.read, tasks_of(traffic)), in_steps(traffic.updated, tasks_of(traffic)),
            in_steps(traffic.written, tasks_of(traffic))},
      tasks_(tasks_of(traffic)),
      arena_("ceiling", std::max(kStep, tasks_ * task_.footprint())),
      read_(arena_.take_array<std::byte>(tasks_ * task_.read)),
      updated_(arena_.take_array<std::byte>(tasks_ * task_.updated)),
      written_(arena_.take_array<std::byte>(tasks_ * task_.written)) {
  std::memset(read_, 1, static_cast<std::size_t>(tasks_ * task_.footprint()));  // the parts lie one after another
}

double TrafficCeiling::rate(double seconds) {
  static std::atomic<std::uint32_t> sink;
  constexpr std::int64_t kPrefetch[] = {0, 512, 2048};
  const kernels::Probe& probe = in_use();
  // What no cache holds is moved in long runs, each going on where the one before it ended, by the pattern that suits memory: as long as a
  // burst of what is measured beside it, since a neighbour takes memory from both.
  constexpr std::int64_t kRun = std::int64_t{128} << 20;
  const std::int64_t run = std::min(tasks_, std::max<std::int64_t>(1, kRun / std::max(kStep, task_.footprint())));
  return best_rate(seconds, [&] {
    const std::int64_t prefetch = run < tasks_ ? kPrefetch[2] : kPrefetch[turn_++ % std::size(kPrefetch)];
    const std::int64_t first = std::exchange(next_, next_ + run < tasks_ ? next_ + run : 0);
    const std::int64_t tasks = std::min(run, tasks_ - first);
    core::parallel_for(team_, tasks, [&](std::int64_t i) {
      const std::int64_t t = first + i;
      sink.fetch_xor(probe.move(read_ + t * task_.read, task_.read, updated_ + t * task_.updated, task_.updated,
                                written_ + t * task_.written, task_.written, prefetch),
                     std::memory_order_relaxed);
    });
    return static_cast<double>(tasks * task_.moved());
  });
}

const char* TrafficCeiling::level() const {
  const std::int64_t bytes = tasks_ * task_.footprint();
  if (bytes <= team_.threads() * ::sysconf(_SC_LEVEL2_CACHE_SIZE)) return "L2";
  return bytes <= core::this_machine().last_cache_bytes ? "L3" : "memory";
}

}  // namespace finback::measure
