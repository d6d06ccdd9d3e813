#include "comm/operation.h"

#include <xxhash.h>

#include <algorithm>
#include <thread>

namespace finback::comm {
namespace {

std::uint64_t checksum(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

constexpr double kCheckInterval = 1e-3;

}  // namespace

void Operation::begin(std::size_t count) {
  messages.clear();
  messages.reserve(count);  // checksums are sent from within
  open = 0;
  in_use = true;
  since = checked = arrival = 0;
}

void Operation::send(Shared& shared, int to, int tag, std::span<const std::byte> bytes) {
  messages.push_back({-1, -1, to, {}, 0, -1});
  Message& m = messages.back();
  m.content = shared.transport.send(to, tag, bytes);
  if (!shared.options.checksums || bytes.empty()) return;
  m.checksum = checksum(bytes);
  m.sum = shared.transport.send(to, tag, std::as_bytes(std::span(&m.checksum, 1)));
}

void Operation::receive(Shared& shared, int from, int tag, std::span<std::byte> bytes) {
  const bool on_link = shared.options.link_bytes_per_second > 0 && from != shared.transport.rank();
  messages.push_back({-1, -1, from, {}, 0, on_link ? std::ssize(bytes) : -1});
  Message& m = messages.back();
  m.content = shared.transport.receive(from, tag, bytes);
  if (!shared.options.checksums || bytes.empty()) return;
  m.received = bytes;
  m.sum = shared.transport.receive(from, tag, std::as_writable_bytes(std::span(&m.checksum, 1)));
}

bool Operation::advance(Shared& shared) {
  Transport& t = shared.transport;
  bool all = true;
  for (std::size_t i = open; i < messages.size(); ++i) {
    Message& m = messages[i];
    if (m.content >= 0 && t.finished(m.content)) {
      m.content = -1;
      m.arrival = m.on_link >= 0 ? shared.through_link(m.on_link) : core::seconds_now();
      arrival = std::max(arrival, m.arrival);
    }
    if (m.sum >= 0 && t.finished(m.sum)) m.sum = -1;
    if (m.content >= 0 || m.sum >= 0 || (m.on_link >= 0 && m.arrival > core::seconds_now())) {
      all = false;
      continue;
    }
    if (!m.received.empty() && checksum(m.received) != m.checksum)
      throw core::Error(
          core::Exit::distributed,
          fmt::format("a message of {} bytes changed on its way from {} to {}", m.received.size(), t.name(m.peer), t.name(t.rank())),
          "found by its checksum", "test memory and network of both hosts; continue with --resume from the last checkpoint");
    m.received = {};
    if (i == open) ++open;
  }
  return all;
}

bool Shared::progress() {
  if (failure) std::rethrow_exception(failure);
  try {
    const double begin = core::seconds_now();
    const bool moved = transport.progress();
    if (moved) times.exchange += core::seconds_now() - begin;
    return moved;
  } catch (...) {
    lost = true;
    throw;
  }
}

double Shared::through_link(std::int64_t bytes) {
  link_free = std::max(link_free, core::seconds_now()) + static_cast<double>(bytes) / options.link_bytes_per_second;
  return link_free + options.link_delay;
}

bool Shared::poll(Operation& o) {
  try {
    const bool moved = progress();
    while (o.advance(*this)) {
      if (!o.next(*this)) continue;
      if (o.checked != o.since) transport.set_waiting_for(-1);
      o.in_use = false;
      times.arrival = o.arrival;
      return true;
    }
    if (moved || o.since == 0) {
      if (o.checked != o.since) transport.set_waiting_for(-1);
      o.since = o.checked = core::seconds_now();
      return false;
    }
    const double now = core::seconds_now();
    if (now - o.checked > kCheckInterval) {
      o.checked = now;
      const int peer = o.messages[o.open].peer;
      transport.set_waiting_for(peer);
      transport.check(peer, now - o.since);
    }
    return false;
  } catch (...) {
    lost = true;
    throw;
  }
}

}  // namespace finback::comm
