#include "measure/exchange.h"

#include "core/arena.h"
#include "core/clock.h"

#include <algorithm>
#include <cstring>
#include <functional>

namespace finback::measure {
namespace {

std::byte content(int from, int to, std::int64_t i) { return static_cast<std::byte>(from * 37 + to * 11 + i % 251); }

// Seconds of one call when all ranks make `calls` of them one after another.
double time_of(comm::Communicator& c, std::int64_t calls, const std::function<void()>& call) {
  c.barrier();
  const double begin = core::seconds_now();
  for (std::int64_t i = 0; i < calls; ++i) call();
  c.barrier();
  return (core::seconds_now() - begin) / static_cast<double>(calls);
}

template <class T>
T from_rank_0(comm::Communicator& c, T value) {
  c.broadcast(0, std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

ExchangeSpeed measure(comm::Communicator& c, std::int64_t bytes, double seconds, std::span<std::byte> shared, std::span<std::byte> own,
                      std::span<std::byte> in) {
  const auto n = static_cast<std::size_t>(c.size());
  const std::size_t total = n * static_cast<std::size_t>(bytes);
  const std::vector<std::int64_t> counts(n, bytes);
  for (int r = 0; r < c.size(); ++r)
    for (std::int64_t i = 0; i < bytes; ++i) shared[static_cast<std::size_t>(r * bytes + i)] = content(c.rank(), r, i);
  std::memcpy(own.data(), shared.data(), total);

  ExchangeSpeed speed{.bytes_per_pair = bytes};
  const auto exchange = [&](std::span<std::byte> out) { c.start_all_to_all(out.first(total), counts, in.first(total), counts).wait(); };
  const struct {
    double ExchangeSpeed::*rate;
    std::function<void()> call;
  } contenders[] = {{&ExchangeSpeed::gb_per_s, [&] { exchange(shared); }},
                    {&ExchangeSpeed::peer_gb_per_s, [&] { c.plain_all_to_all(own.first(total), in.first(total)); }},
                    {&ExchangeSpeed::unshared_gb_per_s, [&] { exchange(own); }},
                    {&ExchangeSpeed::copy_gb_per_s, [&] { std::memcpy(in.data(), own.data(), total); }}};

  std::int64_t calls[std::size(contenders)];
  constexpr double kBurst = 0.01;
  for (std::size_t k = 0; k < std::size(contenders); ++k) {
    std::memset(in.data(), 0, total);
    contenders[k].call();
    bool right = true;
    for (int r = 0; r < c.size(); ++r)
      for (std::int64_t i = 0; i < bytes; ++i)
        right = right && (k == 3 || in[static_cast<std::size_t>(r * bytes + i)] == content(r, c.rank(), i));
    if (!right && (k != 1 || c.has_plain_all_to_all()))
      throw core::Error(core::Exit::failed, "an exchange has brought wrong bytes", c.name(c.rank()), "");
    const double once = from_rank_0(c, time_of(c, 3, contenders[k].call));
    calls[k] = std::clamp<std::int64_t>(static_cast<std::int64_t>(kBurst / once), 1, 10000);
  }
  const double end = core::seconds_now() + seconds;
  for (int round = 0; from_rank_0(c, round < 5 || core::seconds_now() < end); ++round)
    for (std::size_t k = 0; k < std::size(contenders); ++k) {
      const double time = from_rank_0(c, time_of(c, calls[k], contenders[k].call));
      speed.*contenders[k].rate = std::max(speed.*contenders[k].rate, static_cast<double>(total) / time * 1e-9);
    }
  if (!c.has_plain_all_to_all()) speed.peer_gb_per_s = speed.copy_gb_per_s;
  return speed;
}

}  // namespace

std::vector<ExchangeSpeed> bench_exchange(comm::Communicator& c, const ExchangeOptions& options) {
  const std::int64_t most = *std::max_element(options.bytes_per_pair.begin(), options.bytes_per_pair.end()) * c.size();
  core::Arena arena("exchange", 2 * most + 64);
  const std::span<std::byte> shared = c.shared_memory(most);
  const std::span own(arena.take_array<std::byte>(most), static_cast<std::size_t>(most));
  const std::span in(arena.take_array<std::byte>(most), static_cast<std::size_t>(most));
  std::vector<ExchangeSpeed> speeds;
  c.set_phase("bench exchange");
  for (const std::int64_t bytes : options.bytes_per_pair) speeds.push_back(measure(c, bytes, options.seconds, shared, own, in));
  return speeds;
}

}  // namespace finback::measure
