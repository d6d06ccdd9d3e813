#include "comm/memory_transport.h"

#include "core/clock.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

namespace finback::comm {
namespace {

constexpr std::int64_t kPiece = std::int64_t{128} << 10;  // copied in one progress(): some ten microseconds

constexpr const char* kResume = "see to that host or process; then continue with --resume from the last checkpoint";

}  // namespace

MemoryTransport::MemoryTransport(int rank, std::vector<Inbox> inboxes, std::vector<std::string> names, Reach& reach, double timeout)
    : rank_(rank), inboxes_(std::move(inboxes)), names_(std::move(names)), reach_(reach), timeout_(timeout) {
  for (int r = 0; r < size(); ++r)
    if (reaches(r))
      peers_.push_back(
          {r, &inboxes_[static_cast<std::size_t>(rank_)].from(r), &inboxes_[static_cast<std::size_t>(r)].from(rank_), {}, {}, {}});
  mine().beat.store(core::seconds_now());
}

MemoryTransport::Peer& MemoryTransport::peer(int rank) {
  for (Peer& p : peers_)
    if (p.rank == rank) return p;
  FB_CHECK(false, "rank {} is not one that rank {} reaches by memory", rank, rank_);
}

Ticket MemoryTransport::new_message() {
  if (free_.empty()) {
    free_.push_back(static_cast<Ticket>(messages_.size()));
    messages_.emplace_back();
  }
  const Ticket t = free_.back();
  free_.pop_back();
  return t;
}

Ticket MemoryTransport::send(int to, int tag, std::span<const std::byte> bytes) {
  Peer& p = peer(to);
  const Ticket t = new_message();
  Slot slot;
  slot.tag = tag;
  slot.bytes = static_cast<std::int64_t>(bytes.size());
  slot.ticket = t;
  message(t) = {Message::sending, to, tag, nullptr, slot.bytes, 0, 0, {}};
  if (bytes.size() <= Slot::kInline) {
    if (!bytes.empty()) std::memcpy(slot.content, bytes.data(), bytes.size());
    message(t).state = Message::done;
  } else {
    message(t).place = slot.place = reach_.place(bytes);
  }
  p.outgoing.slots.push_back(slot);
  put(p);
  return t;
}

Ticket MemoryTransport::receive(int from, int tag, std::span<std::byte> bytes) {
  Peer& p = peer(from);
  const Ticket t = new_message();
  message(t) = {Message::expected, from, tag, bytes.data(), static_cast<std::int64_t>(bytes.size()), 0, 0, {}};
  const auto match = std::find_if(p.unexpected.begin(), p.unexpected.end(), [&](const Slot& s) { return s.tag == tag; });
  if (match == p.unexpected.end()) {
    p.expected.push_back(t);
  } else {
    const Slot slot = *match;
    p.unexpected.erase(match);
    begin(t, slot);
  }
  return t;
}

bool MemoryTransport::finished(Ticket ticket) {
  Message& m = message(ticket);
  FB_CHECK(m.state != Message::unused, "ticket {} is not in use", ticket);
  if (m.state != Message::done) return false;
  m.state = Message::unused;
  free_.push_back(ticket);
  return true;
}

bool MemoryTransport::progress() {
  mine().beat.store(core::seconds_now(), std::memory_order_relaxed);
  bool moved = false;
  for (Peer& p : peers_) {
    moved |= put(p);
    moved |= take(p);
  }
  return copy() || moved;
}

// Slots that wait, into the peer's ring as far as there is room.
bool MemoryTransport::put(Peer& p) {
  Queue& q = p.outgoing;
  if (q.empty()) return false;
  std::uint32_t written = p.out->written.load(std::memory_order_relaxed);
  const std::uint32_t read = p.out->read.load(std::memory_order_acquire), before = written;
  for (; !q.empty() && written - read < Ring::kSlots; ++written) p.out->slots[written % Ring::kSlots] = q.slots[q.next++];
  p.out->written.store(written, std::memory_order_release);
  if (q.empty()) {
    q.slots.clear();
    q.next = 0;
  }
  return written != before;
}

// What the peer put into this rank's ring.
bool MemoryTransport::take(Peer& p) {
  const std::uint32_t written = p.in->written.load(std::memory_order_acquire);
  std::uint32_t read = p.in->read.load(std::memory_order_relaxed);
  if (read == written) return false;
  for (; read != written; ++read) {
    const Slot slot = p.in->slots[read % Ring::kSlots];
    p.in->read.store(read + 1, std::memory_order_release);
    if (slot.kind == Slot::receipt) {
      Message& m = message(slot.ticket);
      m.state = Message::done;
      reach_.release(m.place);
      continue;
    }
    const auto match = std::find_if(p.expected.begin(), p.expected.end(), [&](Ticket t) { return message(t).tag == slot.tag; });
    if (match == p.expected.end()) {
      p.unexpected.push_back(slot);
    } else {
      const Ticket t = *match;
      p.expected.erase(match);
      begin(t, slot);
    }
  }
  return true;
}

// A message and its receive have met.
void MemoryTransport::begin(Ticket ticket, const Slot& slot) {
  Message& m = message(ticket);
  if (slot.bytes != m.bytes)
    throw core::Error(core::Exit::distributed, fmt::format("{} sent {} bytes where {} were expected", name(m.peer), slot.bytes, m.bytes),
                      fmt::format("{} in phase '{}'", name(rank_), phase()), "start all ranks with the same program and run file");
  if (m.bytes <= Slot::kInline) {
    if (m.bytes > 0) std::memcpy(m.to, slot.content, static_cast<std::size_t>(m.bytes));
    m.state = Message::done;
    return;
  }
  m.state = Message::copying;
  m.place = slot.place;
  m.remote_ticket = slot.ticket;
  copying_.push_back(ticket);
}

// A piece of the oldest message that is being copied.
bool MemoryTransport::copy() {
  if (copying_.empty()) return false;
  Message& m = message(copying_.front());
  const std::int64_t n = std::min(kPiece, m.bytes - m.copied);
  mine().copying.store(true);
  if (first().stop.load()) {
    mine().copying.store(false);
    return false;  // check_others() says why
  }
  reach_.copy(m.peer, m.place, m.copied, {m.to + m.copied, static_cast<std::size_t>(n)});
  mine().copying.store(false, std::memory_order_release);
  m.copied += n;
  if (m.copied < m.bytes) return true;
  m.state = Message::done;
  copying_.erase(copying_.begin());
  Slot receipt;
  receipt.kind = Slot::receipt;
  receipt.ticket = m.remote_ticket;
  Peer& p = peer(m.peer);
  p.outgoing.slots.push_back(receipt);
  put(p);
  return true;
}

void MemoryTransport::check_others() {
  for (const Peer& p : peers_) {
    if (p.rank == rank_) continue;
    const Status& s = status(p.rank);
    if (s.failed.load(std::memory_order_acquire)) throw Reported(core::Exit{s.code}, s.text, "", "");
    if (!reach_.alive(p.rank))
      throw core::Error(
          core::Exit::distributed, fmt::format("{} has died", name(p.rank)),
          fmt::format("in phase '{}', seen from {} in phase '{}'", phase_of(p.rank), name(rank_), phase()),
          "look for its last words and for the system's out-of-memory killer; continue with --resume from the last checkpoint");
  }
}

void MemoryTransport::check(int peer, double seconds_waited) {
  check_others();
  if (seconds_waited > timeout_) throw blame(peer, seconds_waited);
}

core::Error MemoryTransport::blame(int peer, double seconds_waited) const {
  const double now = core::seconds_now(), silence = timeout_ / 2;
  const auto error = [&](std::string what) {
    return core::Error(core::Exit::distributed, what,
                       fmt::format("{} has waited {:.1f} s in phase '{}'", name(rank_), seconds_waited, phase()), kResume);
  };
  // One that does not even poll holds up all, whoever waits for whom.
  int silent = -1;
  for (const Peer& p : peers_)
    if (now - status(p.rank).beat.load() > silence && (silent < 0 || status(p.rank).beat.load() < status(silent).beat.load()))
      silent = p.rank;
  if (silent >= 0)
    return error(
        fmt::format("{} has been silent for {:.1f} s in phase '{}'", name(silent), now - status(silent).beat.load(), phase_of(silent)));
  std::string chain = name(peer);
  for (int hop = 0; hop < size(); ++hop) {
    const int next = reaches(peer) ? waiting_for(peer) : -1;
    if (next < 0) return error(fmt::format("{} sends nothing in phase '{}'", name(peer), reaches(peer) ? phase_of(peer) : "unknown"));
    if (next == rank_ || hop + 1 == size()) break;
    peer = next;
    chain += fmt::format(", which waits for {}", name(peer));
  }
  return error(
      fmt::format("ranks wait for each other: {} waits for {}, which waits for it in phase '{}'", name(rank_), chain, phase_of(peer)));
}

void MemoryTransport::fail(core::Exit code, std::string_view text) {
  Status& s = mine();
  if (s.failed.load(std::memory_order_relaxed)) return;
  s.code = static_cast<int>(code);
  text = text.substr(0, sizeof s.text - 1);
  std::memcpy(s.text, text.data(), text.size());
  s.failed.store(true, std::memory_order_release);
  first().stop.store(true);
}

void MemoryTransport::wait_for_others_to_fail() const {
  const double end = core::seconds_now() + 0.5;
  for (const Peer& p : peers_)
    while (!status(p.rank).failed.load() && reach_.alive(p.rank) && core::seconds_now() < end)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

void MemoryTransport::abandon() noexcept {
  first().stop.store(true);
  const double end = core::seconds_now() + timeout_;  // a process that was stopped stays where it is
  for (const Peer& p : peers_)
    while (p.rank != rank_ && status(p.rank).copying.load() && core::seconds_now() < end) std::this_thread::yield();
}

Place OwnMemory::place(std::span<const std::byte> bytes) {
  return {-1, 0, static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(bytes.data()))};
}

void OwnMemory::copy(int, const Place& place, std::int64_t begin, std::span<std::byte> to) {
  const auto* from = reinterpret_cast<const std::byte*>(static_cast<std::uintptr_t>(place.offset));
  std::memcpy(to.data(), from + begin, to.size());
}

std::span<std::byte> OwnMemory::shared_memory(std::int64_t bytes) {
  blocks_.emplace_back("exchange", bytes);
  return {static_cast<std::byte*>(blocks_.back().take(bytes)), static_cast<std::size_t>(bytes)};
}

}  // namespace finback::comm
