// What carries messages between ranks. There are two: memory that ranks share (memory_transport.h) and MPI (mpi_transport.h). All that
// a collective is stands above this (communicator.h), once for both. A rank, its transport and all it calls belong to one thread.
#pragma once

#include "core/error.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace finback::comm {

// Another rank has failed and says so itself: this rank ends with the same code and prints nothing.
class Reported : public core::Error {
 public:
  using core::Error::Error;
};

// A message that was given to a transport and has not been found finished.
using Ticket = std::int64_t;

class Transport {
 public:
  virtual ~Transport() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string name(int rank) const = 0;  // "rank 3 on HOST"

  // Both return at once. The bytes stay where they are, and unchanged, until the ticket is finished. Messages of one sender, receiver and
  // tag (0 … 2^24-1) are received in the order in which they were sent; a receiver knows how long a message is. A rank may send to itself.
  virtual Ticket send(int to, int tag, std::span<const std::byte> bytes) = 0;
  virtual Ticket receive(int from, int tag, std::span<std::byte> bytes) = 0;

  // Moves every message forward by at most some tens of microseconds' work; messages move nowhere else. True if anything moved.
  // Throws Error(distributed) for a message of another length than expected and for a connection that broke.
  virtual bool progress() = 0;

  // True once for each ticket, which then names nothing.
  virtual bool finished(Ticket ticket) = 0;

  // Called about every millisecond of a wait for `peer` in which nothing moved. Throws Reported when another rank failed, and
  // Error(distributed) when one died, or when the wait has taken longer than the timeout: then it names the rank that holds up the others,
  // which need not be the peer.
  virtual void check(int peer, double seconds_waited) = 0;

  // Memory, zeroed, from which messages to ranks of this machine are read in place: one copy in all. Lives as long as the transport.
  // Throws Error(io).
  virtual std::span<std::byte> shared_memory(std::int64_t bytes) = 0;

  // What this rank does, for the messages of others: the first 31 bytes are kept.
  virtual void set_phase(std::string_view phase) = 0;
  virtual std::string phase() const = 0;
  // The rank that this one waits for, −1: none.
  virtual void set_waiting_for(int rank) = 0;

  // What bench exchange compares with: as many bytes to each rank by the blocking all-to-all of the library beneath, where there is one.
  virtual bool has_plain_all_to_all() const { return false; }
  virtual void plain_all_to_all(std::span<const std::byte>, std::span<std::byte>) {}
  virtual std::string kind() const = 0;  // "threads", "Open MPI"

  // The job is lost, and the buffers of unfinished messages are about to go: returns when no other rank reads them.
  virtual void abandon() noexcept = 0;
};

// What the job says of an error of this rank: its own words, behind the rank and phase where they do not name ranks themselves.
std::string with_rank(const core::Error& error, const Transport& transport);

}  // namespace finback::comm
