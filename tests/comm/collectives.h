// Every collective on values made by rule, against a plain loop; for any transport. Used by the tests of threads, and of processes
// under a launcher (tests/mpi), which compare what these return.
#pragma once

#include "comm/communicator.h"
#include "core/rng.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace finback::comm::test {

// Element i of what rank r has: of all magnitudes, so that another order of adding gives other bits.
inline float value(int rank, std::size_t i) {
  const std::uint64_t h = (static_cast<std::uint64_t>(rank) * 0x9e3779b97f4a7c15u) ^ (i * 0xbf58476d1ce4e5b9u + 0x1234567u);
  const std::uint64_t m = (h ^ (h >> 29)) * 0x94d049bb133111ebu;
  return std::ldexp(static_cast<float>(static_cast<std::int32_t>(m >> 32)), static_cast<int>(m % 40) - 40);
}

inline float in_rank_order(int ranks, std::size_t i) {
  float sum = value(0, i);
  for (int r = 1; r < ranks; ++r) sum += value(r, i);
  return sum;
}

// Bytes that rank `from` sends to `to` in round `round`: uneven, many of them none, some of several pieces.
inline std::int64_t count(int from, int to, int round) {
  const auto h = static_cast<std::uint32_t>(from * 31 + to * 17 + round * 7) * 2654435761u >> 8;
  constexpr std::int64_t kSizes[] = {0, 1, 191, 192, 193, 4096, 70001, 300000};
  return kSizes[h % 8];
}

inline std::byte content(int from, int to, int round, std::int64_t i) {
  return static_cast<std::byte>((from * 7 + to * 11 + round * 13 + i * 5 + (i >> 8)) & 0xff);
}

struct AllToAll {
  std::vector<std::int64_t> send_counts, receive_counts;
  std::vector<std::byte> send, receive;
  Request request;

  AllToAll(Communicator& c, int round_number) : round(round_number) {
    for (int r = 0; r < c.size(); ++r) {
      send_counts.push_back(count(c.rank(), r, round));
      receive_counts.push_back(count(r, c.rank(), round));
      for (std::int64_t i = 0; i < send_counts.back(); ++i) send.push_back(content(c.rank(), r, round, i));
      receive.resize(receive.size() + static_cast<std::size_t>(receive_counts.back()));
    }
    request = c.start_all_to_all(send, send_counts, receive, receive_counts);
  }
  bool right(const Communicator& c) const {
    std::size_t at = 0;
    for (int r = 0; r < c.size(); ++r)
      for (std::int64_t i = 0; i < receive_counts[static_cast<std::size_t>(r)]; ++i)
        if (receive[at++] != content(r, c.rank(), round, i)) return false;
    return at == receive.size();
  }
  int round;
};

// Runs everything and returns what was wrong, or nothing. `sums`: the bits of all sums, which are equal on every rank and transport.
inline std::string everything(Communicator& c, std::vector<float>& sums) {
  const int n = c.size(), me = c.rank();
  c.set_phase("collectives");
  c.barrier();

  for (int root = 0; root < n; ++root) {
    std::vector<std::byte> text(1000, static_cast<std::byte>(me == root ? root + 1 : 0));
    c.broadcast(root, text);
    for (const std::byte b : text)
      if (b != static_cast<std::byte>(root + 1)) return "broadcast";
  }

  std::vector<std::int64_t> counts(static_cast<std::size_t>(n));
  for (const std::size_t scale : {std::size_t{1}, std::size_t{50000}}) {
    std::size_t size = 0;
    for (int r = 0; r < n; ++r)
      size += static_cast<std::size_t>(counts[static_cast<std::size_t>(r)] = static_cast<std::int64_t>(r % 3 * scale + (r == 0 ? 0 : 5)));
    std::vector<float> x(size), mine(static_cast<std::size_t>(counts[static_cast<std::size_t>(me)])), expected(size);
    std::vector<numerics::bf16> half(size);
    for (std::size_t i = 0; i < size; ++i) {
      x[i] = value(me, i);
      half[i] = numerics::bf16(x[i]);
      expected[i] = in_rank_order(n, i);
    }
    std::size_t begin = 0;
    for (int r = 0; r < me; ++r) begin += static_cast<std::size_t>(counts[static_cast<std::size_t>(r)]);
    c.start_reduce_scatter(x, counts, mine).wait();
    if (!mine.empty() && std::memcmp(mine.data(), expected.data() + begin, mine.size() * sizeof(float)) != 0) return "reduce-scatter";
    sums.insert(sums.end(), expected.begin(), expected.end());

    c.start_reduce_scatter(half, counts, mine).wait();
    for (std::size_t i = 0; i < mine.size(); ++i) {
      float sum = static_cast<float>(numerics::bf16(value(0, begin + i)));
      for (int r = 1; r < n; ++r) sum += static_cast<float>(numerics::bf16(value(r, begin + i)));
      if (std::memcmp(&mine[i], &sum, sizeof sum) != 0) return "reduce-scatter of bf16";
    }

    c.all_reduce(x);
    if (size > 0 && std::memcmp(x.data(), expected.data(), size * sizeof(float)) != 0) return "all-reduce";
    sums.insert(sums.end(), x.begin(), x.end());

    std::vector<float> gathered(size);
    for (std::int64_t& b : counts) b *= static_cast<std::int64_t>(sizeof(float));
    c.start_all_gather(std::as_bytes(std::span(expected).subspan(begin, mine.size())), counts, std::as_writable_bytes(std::span(gathered)))
        .wait();
    if (gathered != expected) return "all-gather";
  }

  std::vector<double> d = {std::ldexp(1.0 + me, 3 * me), 0.1 * me};
  std::vector<std::int64_t> l = {me, std::int64_t{1} << 40};
  c.all_reduce(std::span(d));
  c.all_reduce(std::span(l));
  double d0 = 1, d1 = 0;
  for (int r = 1; r < n; ++r) d0 += std::ldexp(1.0 + r, 3 * r), d1 += 0.1 * r;
  if (d[0] != d0 || d[1] != d1 || l[0] != n * (n - 1) / 2 || l[1] != n * (std::int64_t{1} << 40)) return "all-reduce of scalars";

  // Three exchanges and messages of a ring under way at once, finished in an order that differs between ranks.
  for (int round = 0; round < 6; ++round) {
    std::vector<int> token(70000, me), heard(70000, -1), back(3, me), from_next(3, -1);
    AllToAll a(c, 3 * round), b(c, 3 * round + 1);
    Request there = c.start_send((me + 1) % n, 1, std::as_bytes(std::span(token)));
    Request here = c.start_receive((me + n - 1) % n, 1, std::as_writable_bytes(std::span(heard)));
    AllToAll d3(c, 3 * round + 2);
    Request back_there = c.start_send((me + n - 1) % n, 2, std::as_bytes(std::span(back)));
    Request back_here = c.start_receive((me + 1) % n, 2, std::as_writable_bytes(std::span(from_next)));
    Request* all[] = {&a.request, &b.request, &there, &here, &d3.request, &back_there, &back_here};
    std::uint32_t state = static_cast<std::uint32_t>(me * 97 + round + 1);
    for (int polls = 0; polls < 40; ++polls) {
      state = state * 1664525u + 1013904223u;
      all[(state >> 16) % 7]->poll();
      Communicator::progress(&c);
    }
    for (int i = 0; i < 7; ++i) all[(i + me) % 7]->wait();
    if (!a.right(c) || !b.right(c) || !d3.right(c)) return "all-to-all";
    if (heard != std::vector<int>(70000, (me + n - 1) % n) || from_next != std::vector<int>(3, (me + 1) % n)) return "messages of a ring";
  }

  // Messages of one tag stay in order, and those of another may be received before them.
  {
    std::vector<std::vector<int>> out(6, std::vector<int>(100)), in(6, std::vector<int>(100, -1));
    std::vector<Request> requests;
    for (int i = 0; i < 6; ++i) {
      out[static_cast<std::size_t>(i)].assign(100, 10 * me + i);
      requests.push_back(c.start_send((me + 1) % n, i % 2, std::as_bytes(std::span(out[static_cast<std::size_t>(i)]))));
    }
    const int from = (me + n - 1) % n;
    for (const int i : {1, 3, 5, 0, 2, 4})
      c.start_receive(from, i % 2, std::as_writable_bytes(std::span(in[static_cast<std::size_t>(i)]))).wait();
    for (Request& r : requests) r.wait();
    for (int i = 0; i < 6; ++i)
      if (in[static_cast<std::size_t>(i)] != std::vector<int>(100, 10 * from + i)) return "the order of messages";
  }

  // Parts, and parts of parts, in an order turned round.
  Communicator half = c.split(me % 2, -me);
  const int members = (n + 1 - me % 2) / 2, turned = members - 1 - me / 2;
  if (half.size() != members || half.rank() != turned) return "the ranks of a part";
  std::vector<float> y = {static_cast<float>(me)};
  half.all_reduce(y);
  float expected = 0;
  for (int r = me % 2; r < n; r += 2) expected += static_cast<float>(r);
  if (y[0] != expected) return "the sum of a part";
  Communicator pair = half.split(half.rank() / 2, 0);
  std::vector<std::int64_t> one = {1};
  pair.all_reduce(std::span(one));
  if (one[0] != pair.size() || pair.size() != std::min(2, members - half.rank() / 2 * 2)) return "a part of a part";

  // From memory that is read in place.
  const std::span<std::byte> shared = c.shared_memory(n * 100000);
  for (int r = 0; r < n; ++r)
    for (int i = 0; i < 100000; ++i) shared[static_cast<std::size_t>(r * 100000 + i)] = content(me, r, 77, i);
  std::vector<std::byte> in(shared.size());
  const std::vector<std::int64_t> even(static_cast<std::size_t>(n), 100000);
  c.start_all_to_all(shared, even, in, even).wait();
  for (int r = 0; r < n; ++r)
    for (int i = 0; i < 100000; ++i)
      if (in[static_cast<std::size_t>(r * 100000 + i)] != content(r, me, 77, i)) return "messages from shared memory";
  c.barrier();
  return {};
}

}  // namespace finback::comm::test
