// Memory between processes of one machine. Each has its inbox and its shared memory in files without a name (memfd), which others open
// through /proc: nothing is left behind by a process that is killed, and no small /dev/shm limits it. Where the kernel permits it, other
// memory is read from process to process (process_vm_readv); else it is copied into shared memory first.
#pragma once

#include "comm/memory_transport.h"

#include <sys/types.h>

#include <map>
#include <memory>
#include <vector>

namespace finback::comm {

class Segments final : public Reach {
 public:
  // What the others need to find this process; sent as plain bytes.
  struct Card {
    pid_t pid = 0;
    int segment = -1;
    std::uint64_t key = 0, key_address = 0;  // what shows that it is really this process that was found
    char host[64] = {};
  };
  // What can be reached of another process.
  enum Access : char { none = 0, shared = 1, all = 2 };

  // Of one of `ranks` processes. Throws Error(io).
  explicit Segments(int ranks);
  ~Segments() override;
  Segments(const Segments&) = delete;

  Card card() const;
  // Called once for every rank, this one included.
  Access open(int rank, const Card& card);
  Inbox inbox(int rank) const { return inboxes_[static_cast<std::size_t>(rank)]; }
  // Whether all of the machine may read all memory of this process.
  void set_readable(bool readable) { readable_ = readable; }

  Place place(std::span<const std::byte> bytes) override;
  void release(const Place& place) override;
  void copy(int from, const Place& place, std::int64_t begin, std::span<std::byte> to) override;
  std::span<std::byte> shared_memory(std::int64_t bytes) override;
  bool alive(int rank) override;

 private:
  struct Mapping {
    int fd = -1;
    std::span<std::byte> bytes;
  };
  struct Process {
    pid_t pid = 0;
    int handle = -1;                // a pidfd
    std::map<int, Mapping> opened;  // its segments, by its number for each
  };
  struct Staging {
    int segment;
    std::span<std::byte> bytes;
    bool used;
  };
  Mapping create(std::size_t bytes);
  std::span<std::byte> map(int rank, int segment);

  std::vector<Mapping> own_;
  std::vector<Inbox> inboxes_;
  std::vector<Process> processes_;
  std::vector<Staging> staging_;
  std::unique_ptr<std::uint64_t> key_;
  bool readable_ = false;
};

}  // namespace finback::comm
