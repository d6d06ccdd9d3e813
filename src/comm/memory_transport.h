// Messages between ranks that can read each other's memory: threads of one process, or processes of one machine. The sender puts a slot
// into the receiver's ring that says where the bytes lie; the receiver copies them into its buffer, a piece in each progress(), and
// returns a receipt. Short messages travel within the slot.
#pragma once

#include "comm/inbox.h"
#include "comm/transport.h"
#include "core/arena.h"

#include <vector>

namespace finback::comm {

// How a rank reads what another has. Among threads an address is an address (OwnMemory); processes need more (segments.h).
class Reach {
 public:
  virtual ~Reach() = default;
  virtual Place place(std::span<const std::byte> bytes) = 0;  // of a message about to be sent, until released
  virtual void release(const Place& place) = 0;
  virtual void copy(int from, const Place& place, std::int64_t begin, std::span<std::byte> to) = 0;  // Throws Error(distributed).
  virtual std::span<std::byte> shared_memory(std::int64_t bytes) = 0;
  virtual bool alive(int rank) = 0;
};

class MemoryTransport final : public Transport {
 public:
  // inboxes[r] and names[r] belong to rank r. timeout in seconds.
  MemoryTransport(int rank, std::vector<Inbox> inboxes, std::vector<std::string> names, Reach& reach, double timeout);

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(inboxes_.size()); }
  std::string name(int rank) const override { return names_[static_cast<std::size_t>(rank)]; }
  Ticket send(int to, int tag, std::span<const std::byte> bytes) override;
  Ticket receive(int from, int tag, std::span<std::byte> bytes) override;
  bool progress() override;
  bool finished(Ticket ticket) override;
  void check(int peer, double seconds_waited) override;
  std::span<std::byte> shared_memory(std::int64_t bytes) override { return reach_.shared_memory(bytes); }
  void set_phase(std::string_view phase) override { mine().set_phase(phase); }
  std::string phase() const override { return mine().phase_name(); }
  void set_waiting_for(int rank) override { mine().waiting_for.store(rank, std::memory_order_relaxed); }
  std::string kind() const override { return "threads"; }
  void abandon() noexcept override;

  bool reaches(int rank) const { return static_cast<bool>(inboxes_[static_cast<std::size_t>(rank)]); }
  std::string phase_of(int rank) const { return status(rank).phase_name(); }
  int waiting_for(int rank) const { return status(rank).waiting_for.load(std::memory_order_relaxed); }

  // Throws what check() throws where somebody failed or died.
  void check_others();
  // The error of a wait that began with a wait for `peer`: follows who waits for whom to the one that waits for none or is silent.
  core::Error blame(int peer, double seconds_waited) const;
  // True for the first rank of the machine that asks.
  bool claim() { return !first().claimed.exchange(true); }
  // Lets the others of the machine end with this.
  void fail(core::Exit code, std::string_view text);
  // After fail(): returns when they all know, or some tenths of a second later. A launcher that sees one process end kills the others, and
  // reports their being killed.
  void wait_for_others_to_fail() const;

 private:
  struct Message {
    enum State { unused, sending, expected, copying, done };
    State state = unused;
    int peer = 0, tag = 0;
    std::byte* to = nullptr;
    std::int64_t bytes = 0, copied = 0;
    std::int64_t remote_ticket = 0;
    Place place;
  };
  // First in, first out, without allocation once it has been as long as it gets.
  struct Queue {
    std::vector<Slot> slots;
    std::size_t next = 0;
    bool empty() const { return next == slots.size(); }
  };
  struct Peer {
    int rank;
    Ring *in, *out;
    Queue outgoing;
    std::vector<Ticket> expected;  // receives without a message, and
    std::vector<Slot> unexpected;  // messages without a receive
  };

  Status& mine() const { return status(rank_); }
  Status& first() const { return status(peers_.front().rank); }
  Status& status(int rank) const { return inboxes_[static_cast<std::size_t>(rank)].status(); }
  Message& message(Ticket t) { return messages_[static_cast<std::size_t>(t)]; }
  Peer& peer(int rank);
  Ticket new_message();
  bool put(Peer& p);
  bool take(Peer& p);
  bool copy();
  void begin(Ticket ticket, const Slot& slot);

  int rank_;
  std::vector<Inbox> inboxes_;
  std::vector<std::string> names_;
  Reach& reach_;
  double timeout_;
  std::vector<Peer> peers_;  // those that can be reached, in rank order, this one included
  std::vector<Message> messages_;
  std::vector<Ticket> free_, copying_;
};

// The Reach of threads.
class OwnMemory final : public Reach {
 public:
  Place place(std::span<const std::byte> bytes) override;
  void release(const Place&) override {}
  void copy(int from, const Place& place, std::int64_t begin, std::span<std::byte> to) override;
  std::span<std::byte> shared_memory(std::int64_t bytes) override;
  bool alive(int) override { return true; }

 private:
  std::vector<core::Arena> blocks_;
};

}  // namespace finback::comm
