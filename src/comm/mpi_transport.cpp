#include "comm/mpi_transport.h"

#include "core/clock.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace finback::comm {
namespace {

constexpr int kMessages = 0, kWords = 1;  // channels
constexpr const char* kResume = "see to that host or process; then continue with --resume from the last checkpoint";

}  // namespace

MpiTransport::MpiTransport(const mpi::Calls& calls, int ranks_expected, const Options& options) : calls_(calls), options_(options) {
  require(calls_.start(&rank_, &size_), -1);
  if (ranks_expected > 0 && ranks_expected != size_)
    throw core::Error(core::Exit::distributed,
                      fmt::format("the launcher started {} processes, but {} sees {}", ranks_expected, calls_.library, size_),
                      "another MPI's launcher", "start with that MPI's own mpirun, or name its library in FINBACK_MPI");
  meet(options.shared_memory, options.timeout);
  known_.resize(static_cast<std::size_t>(size_));
  if (!all_near_) require(calls_.receive(&incoming_, sizeof incoming_, -1, 0, kWords, &listening_), -1);
}

// Every rank learns where the others are and which of them it reaches by memory.
void MpiTransport::meet(bool shared_memory, double timeout) {
  segments_ = std::make_unique<Segments>(size_);
  const auto n = static_cast<std::size_t>(size_), me = static_cast<std::size_t>(rank_);
  std::vector<Segments::Card> cards(n);
  const Segments::Card mine = segments_->card();
  require(calls_.all_gather(&mine, cards.data(), sizeof mine), -1);
  std::vector<char> access(n, Segments::none), all(n * n);
  for (std::size_t r = 0; r < n; ++r) {
    names_.push_back(fmt::format("rank {} on {}", r, cards[r].host));
    if (shared_memory || r == me) access[r] = segments_->open(static_cast<int>(r), cards[r]);
  }
  require(calls_.all_gather(access.data(), all.data(), size_), -1);
  std::vector<Inbox> inboxes(n);
  bool readable = true;
  for (std::size_t r = 0; r < n; ++r) {
    if (access[r] == Segments::none || all[r * n + me] == Segments::none) continue;
    inboxes[r] = segments_->inbox(static_cast<int>(r));
    readable = readable && all[r * n + me] == Segments::all;
  }
  segments_->set_readable(readable);
  all_near_ = std::all_of(inboxes.begin(), inboxes.end(), [](const Inbox& i) { return static_cast<bool>(i); });
  near_ = std::make_unique<MemoryTransport>(rank_, std::move(inboxes), names_, *segments_, timeout);
}

void MpiTransport::require(int error, int peer) const {
  if (error == 0) return;
  char text[512];
  calls_.text(error, text, sizeof text);
  throw core::Error(
      core::Exit::distributed, fmt::format("{} failed: {}", calls_.library, text),
      peer >= 0 ? fmt::format("between {} and {} in phase '{}'", name(rank_), name(peer), phase()) : fmt::format("rank {}", rank_),
      kResume);
}

Ticket MpiTransport::new_far(const Far& far) {
  if (free_.empty()) {
    free_.push_back(static_cast<Ticket>(far_.size()));
    far_.emplace_back();
  }
  const Ticket t = free_.back();
  free_.pop_back();
  far_[static_cast<std::size_t>(t)] = far;
  return 2 * t + 1;
}

Ticket MpiTransport::send(int to, int tag, std::span<const std::byte> bytes) {
  if (is_near(to)) return 2 * near_->send(to, tag, bytes);
  Far f{-1, to, -1, Far::open};
  require(calls_.send(bytes.data(), static_cast<long long>(bytes.size()), to, tag, kMessages, &f.request), to);
  return new_far(f);
}

Ticket MpiTransport::receive(int from, int tag, std::span<std::byte> bytes) {
  if (is_near(from)) return 2 * near_->receive(from, tag, bytes);
  Far f{-1, from, static_cast<std::int64_t>(bytes.size()), Far::open};
  require(calls_.receive(bytes.data(), static_cast<long long>(bytes.size()), from, tag, kMessages, &f.request), from);
  return new_far(f);
}

bool MpiTransport::finished(Ticket ticket) {
  if (ticket % 2 == 0) return near_->finished(ticket / 2);
  Far& f = far_[static_cast<std::size_t>(ticket / 2)];
  if (f.state != Far::done) return false;
  f.state = Far::unused;
  free_.push_back(ticket / 2);
  return true;
}

bool MpiTransport::progress() {
  bool moved = near_->progress();
  if (all_near_) return moved;
  for (Far& f : far_) {
    if (f.state != Far::open) continue;
    int done = 0, from = 0;
    long long received = 0;
    require(calls_.test(f.request, &done, &received, &from), f.peer);
    if (done == 0) continue;
    f.state = Far::done;
    moved = true;
    if (f.expected >= 0 && received != f.expected)
      throw core::Error(core::Exit::distributed, fmt::format("{} sent {} bytes where {} were expected", name(f.peer), received, f.expected),
                        fmt::format("{} in phase '{}'", name(rank_), phase()), "start all ranks with the same program and run file");
  }
  listen();
  return moved;
}

void MpiTransport::tell(int to, const Word& word) {
  sent_.push_back({word, -1});
  require(calls_.send(&sent_.back().word, sizeof word, to, 0, kWords, &sent_.back().request), to);
}

// Takes words that have come, answers, and forgets those of its own that have gone.
void MpiTransport::listen() {
  for (;;) {
    int done = 0, from = 0;
    long long received = 0;
    require(calls_.test(listening_, &done, &received, &from), -1);
    if (done == 0) break;
    const Word word = incoming_;
    require(calls_.receive(&incoming_, sizeof incoming_, -1, 0, kWords, &listening_), -1);
    if (word.kind == Word::ask) {
      Word answer{Word::answer, near_->waiting_for(rank_), 0, {}, {}};
      const std::string mine = phase();
      std::memcpy(answer.phase, mine.data(), std::min(mine.size(), sizeof answer.phase - 1));
      tell(from, answer);
    } else if (word.kind == Word::answer) {
      Known& k = known_[static_cast<std::size_t>(from)];
      k.heard = core::seconds_now();
      k.waiting_for = word.waiting_for;
      k.phase = word.phase;
    } else if (!told_) {
      told_.emplace(core::Exit{word.code}, word.text, "", "");
    }
  }
  for (; !sent_.empty(); sent_.pop_front()) {
    int done = 0, from = 0;
    long long received = 0;
    require(calls_.test(sent_.front().request, &done, &received, &from), -1);
    if (done == 0) break;
  }
}

// The rank that a wait for `peer` leads to, as far as is known: the first that waits for none, does not answer, or waits for this one.
int MpiTransport::suspect(int peer) const {
  for (int hop = 0; hop < size_; ++hop) {
    const Known& k = known_[static_cast<std::size_t>(peer)];
    const int next = is_near(peer) ? near_->waiting_for(peer) : k.heard >= k.asked ? k.waiting_for : -1;
    if (next < 0 || next == rank_) break;
    peer = next;
  }
  return peer;
}

void MpiTransport::check(int peer, double seconds_waited) {
  near_->check_others();
  if (all_near_) return near_->check(peer, seconds_waited);
  if (told_) throw *told_;
  const double now = core::seconds_now(), timeout = options_.timeout;
  if (seconds_waited < timeout / 2) return;
  const int blamed = suspect(peer);
  Known& k = known_[static_cast<std::size_t>(blamed)];
  if (!is_near(blamed) && now - k.asked > timeout / 16) {
    if (k.heard >= k.asked) k.asked = now;  // of several questions without an answer, the first counts
    tell(blamed, {});
  }
  if (seconds_waited < timeout) return;
  if (is_near(blamed)) throw near_->blame(blamed, seconds_waited);
  const bool silent = k.heard < k.asked && now - k.asked > timeout / 8;
  throw core::Error(core::Exit::distributed,
                    silent ? fmt::format("{} has not answered for {:.1f} s", name(blamed), now - k.asked)
                    : k.waiting_for == rank_
                        ? fmt::format("ranks wait for each other: {} waits for {} in phase '{}'", name(blamed), name(rank_), k.phase)
                        : fmt::format("{} sends nothing in phase '{}'", name(blamed), k.phase),
                    fmt::format("{} has waited {:.1f} s in phase '{}'", name(rank_), seconds_waited, phase()), kResume);
}

bool MpiTransport::told_by_others() {
  if (all_near_ || is_near(0)) return false;  // rank 0's machine says it at once
  for (const double end = core::seconds_now() + 0.3; !told_ && core::seconds_now() < end;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    listen();
  }
  return told_.has_value();
}

void MpiTransport::fail(core::Exit code, std::string_view text) {
  near_->fail(code, text);
  Word word{Word::failed, -1, static_cast<int>(code), {}, {}};
  std::memcpy(word.text, text.data(), std::min(text.size(), sizeof word.text - 1));
  for (int r = 0; r < size_; ++r)
    if (!is_near(r)) tell(r, word);
  for (const double end = core::seconds_now() + 0.2; !all_near_ && !sent_.empty() && core::seconds_now() < end;) listen();
  near_->wait_for_others_to_fail();
}

void MpiTransport::finish() { require(calls_.finish(), -1); }

void MpiTransport::plain_all_to_all(std::span<const std::byte> send, std::span<std::byte> receive) {
  const std::vector<int> counts(static_cast<std::size_t>(size_), static_cast<int>(send.size() / static_cast<std::size_t>(size_)));
  require(calls_.all_to_all(send.data(), counts.data(), receive.data(), counts.data()), -1);
}

}  // namespace finback::comm
