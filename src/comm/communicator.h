// What ranks do together: collectives, messages to a neighbour, and exchanges that go on while a rank computes. Written once over
// Transport, so that every transport gives the same bits: each sum is formed in rank order, ((x₀ + x₁) + x₂) + …, whatever arrives first.
//
// All ranks of a communicator start its collectives in the same order. Requests are independent of each other: any may be polled and
// waited for in any order. Nothing moves but in poll(), wait(), progress() and within other calls.
//
// Every call throws Error(distributed), with rank, host, phase and remedy, when a rank died, stalls or sends something else, and Reported
// when another rank failed by itself. After such an error nothing but leaving is possible. No wait is longer than the timeout in which
// nothing moves.
#pragma once

#include "comm/transport.h"
#include "numerics/bf16.h"

#include <memory>
#include <span>
#include <vector>

namespace finback::comm {

struct Operation;
struct Shared;  // what a communicator and its parts have in common

// Something under way. Leave no buffer before the requests on it: one that goes unfinished takes the job with it.
class [[nodiscard]] Request {
 public:
  Request() = default;  // nothing: finished
  Request(Request&& other) noexcept;
  Request& operator=(Request&& other) noexcept;
  ~Request();

  // Moves all that is under way forward a little. True once this is finished.
  bool poll();
  void wait();

 private:
  friend class Communicator;
  Request(Shared& shared, Operation& operation) : shared_(&shared), operation_(&operation) {}
  Shared* shared_ = nullptr;
  Operation* operation_ = nullptr;
};

struct Options {
  double timeout = 600;       // seconds that a rank waits without anything moving before it gives up
  bool checksums = false;     // every message is followed by its XXH3-64, and one that changed on its way ends the job
  bool shared_memory = true;  // between processes of one machine; else all goes through MPI
  // A link that is simulated at each rank: what arrives from others is held back as if it had come through it. 0: none.
  double link_bytes_per_second = 0, link_delay = 0;
};

// What a rank spent beside its own work, in seconds since the start.
struct Times {
  double waiting = 0;   // for others, with nothing moving
  double exchange = 0;  // moving messages, while it waited or between tasks
  double arrival = 0;   // core::seconds_now() at which the last request to finish had all it waited for
};

class Communicator {
 public:
  // Of all ranks of the transport, which outlives it.
  Communicator(Transport& transport, const Options& options);
  Communicator(Communicator&&) noexcept;
  ~Communicator();

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(members_.size()); }
  std::string name(int rank) const;  // "rank 3 on HOST", in the numbers of the whole job

  // Ranks of one color (≥ 0) become a communicator, ordered by key, then by rank. Called by all ranks of this one. At most 4096 in a job.
  Communicator split(int color, int key);

  void barrier();
  void broadcast(int root, std::span<std::byte> bytes);

  // A message to a neighbour; kinds of messages that may overtake each other have tags (0 … 239).
  Request start_send(int to, int tag, std::span<const std::byte> bytes);
  Request start_receive(int from, int tag, std::span<std::byte> bytes);

  // Rank r's send_counts[r] bytes, which lie in rank order, go to rank r; receive_counts[r] come from it and are put in rank order. Every
  // rank knows both; zero is a count.
  Request start_all_to_all(std::span<const std::byte> send, std::span<const std::int64_t> send_counts, std::span<std::byte> receive,
                           std::span<const std::int64_t> receive_counts);

  // all = the counts[r] bytes of each rank r, in rank order. `mine` may be its own part of `all`.
  Request start_all_gather(std::span<const std::byte> mine, std::span<const std::int64_t> counts, std::span<std::byte> all);
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all);  // of equal counts

  // mine = the sum over ranks of their part of x, whose parts have counts[r] elements for rank r, in rank order. `mine` may be its own part
  // of x, where the types are the same. Kept between calls: buffers of 128 Ki elements a rank.
  Request start_reduce_scatter(std::span<const float> x, std::span<const std::int64_t> counts, std::span<float> mine);
  Request start_reduce_scatter(std::span<const numerics::bf16> x, std::span<const std::int64_t> counts, std::span<float> mine);

  // x becomes the sum over ranks.
  void all_reduce(std::span<float> x);
  void all_reduce(std::span<double> x);
  void all_reduce(std::span<std::int64_t> x);

  // Memory, zeroed, from which messages to ranks of this machine are read in place.
  std::span<std::byte> shared_memory(std::int64_t bytes);
  // What this rank does from here on, as others will read it where this one stalls or dies; the first 31 bytes are kept.
  void set_phase(std::string_view phase);
  Times times() const;
  // For bench exchange, of all ranks of the job: the blocking all-to-all of the library beneath, the same bytes to each rank.
  bool has_plain_all_to_all() const;
  void plain_all_to_all(std::span<const std::byte> send, std::span<std::byte> receive);
  std::string transport_name() const;  // "threads", "Open MPI"
  // Moves all that is under way forward a little and throws nothing: what goes wrong shows in the next poll() or wait(). For the hook of
  // the thread team: team.set_poll(Communicator::progress, &communicator).
  static void progress(void* communicator) noexcept;

 private:
  Communicator(std::shared_ptr<Shared> shared, std::vector<int> members, int rank, int context);
  template <class T>
  Request reduce_scatter(std::span<const T> x, std::span<const std::int64_t> counts, std::span<float> mine);
  template <class T>
  void gather_and_sum(std::span<T> x);
  Request begin(Operation& operation);
  int tag(int kind) const;

  std::shared_ptr<Shared> shared_;
  std::vector<int> members_;  // their ranks in the transport
  int rank_, context_;
};

}  // namespace finback::comm
