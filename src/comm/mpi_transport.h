// Messages between processes under a launcher: through memory to those of the same machine, through MPI to the others, and a few words
// between transports that say who waits for whom and why the job ends.
#pragma once

#include "comm/communicator.h"
#include "comm/mpi/calls.h"
#include "comm/segments.h"

#include <deque>
#include <optional>

namespace finback::comm {

class MpiTransport final : public Transport {
 public:
  // Starts MPI; every rank makes one. ranks_expected: as the launcher says; 0: it does not. Throws Error(distributed), Error(io).
  MpiTransport(const mpi::Calls& calls, int ranks_expected, const Options& options);

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string name(int rank) const override { return names_[static_cast<std::size_t>(rank)]; }
  Ticket send(int to, int tag, std::span<const std::byte> bytes) override;
  Ticket receive(int from, int tag, std::span<std::byte> bytes) override;
  bool progress() override;
  bool finished(Ticket ticket) override;
  void check(int peer, double seconds_waited) override;
  std::span<std::byte> shared_memory(std::int64_t bytes) override { return segments_->shared_memory(bytes); }
  void set_phase(std::string_view phase) override { near_->set_phase(phase); }
  std::string phase() const override { return near_->phase(); }
  void set_waiting_for(int rank) override { near_->set_waiting_for(rank); }
  bool has_plain_all_to_all() const override { return true; }
  void plain_all_to_all(std::span<const std::byte> send, std::span<std::byte> receive) override;
  std::string kind() const override { return calls_.library; }
  void abandon() noexcept override { near_->abandon(); }

  bool claim() { return near_->claim(); }
  // Whether another machine has said by now that the job ends; looks for some tenths of a second.
  bool told_by_others();
  // Lets all other ranks end with this.
  void fail(core::Exit code, std::string_view text);
  // After a barrier: ends MPI.
  void finish();

 private:
  struct Far {
    int request = -1;
    int peer = 0;
    std::int64_t expected = -1;  // −1: a message sent
    enum State { unused, open, done } state = unused;
  };
  // What transports tell each other.
  struct Word {
    enum Kind : int { ask, answer, failed } kind = ask;
    int waiting_for = -1, code = 0;
    char phase[32] = {}, text[1024] = {};
  };
  struct Sent {
    Word word;
    int request = -1;
  };
  struct Known {  // of a rank elsewhere, by its last answer
    double asked = -1e300, heard = -1e300;
    int waiting_for = -1;
    std::string phase = "unknown";
  };

  void meet(bool shared_memory, double timeout);
  void require(int error, int peer) const;
  bool is_near(int rank) const { return near_->reaches(rank); }
  Ticket new_far(const Far& far);
  void tell(int to, const Word& word);
  void listen();
  int suspect(int peer) const;

  const mpi::Calls& calls_;
  Options options_;
  int rank_ = 0, size_ = 0;
  std::vector<std::string> names_;
  std::unique_ptr<Segments> segments_;
  std::unique_ptr<MemoryTransport> near_;
  bool all_near_ = false;
  std::vector<Far> far_;
  std::vector<Ticket> free_;
  // Words.
  Word incoming_;
  int listening_ = -1;
  std::deque<Sent> sent_;
  std::vector<Known> known_;
  std::optional<Reported> told_;
};

}  // namespace finback::comm
