// What a rank shares with the others of its machine: how it is, and a ring of slots from each of them. Plain data and atomics, so that it
// may lie in the memory of one process or be mapped by many.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <string>
#include <string_view>

namespace finback::comm {

struct Status {
  alignas(64) std::atomic<double> beat{0};  // core::seconds_now() of the last progress: one clock for all processes of a machine
  std::atomic<std::uint64_t> phase[4] = {};
  std::atomic<int> waiting_for{-1};
  std::atomic<bool> failed{false};
  // A rank sets `copying` and looks at `stop` before it reads another's memory; one whose memory goes sets `stop` and looks at `copying`.
  alignas(64) std::atomic<bool> copying{false};
  // Of the lowest rank of the machine alone: everybody ends; somebody has taken it upon him to say why.
  alignas(64) std::atomic<bool> stop{false};
  std::atomic<bool> claimed{false};
  // Why, once `failed` is set.
  alignas(64) int code = 0;
  char text[1020] = {};

  void set_phase(std::string_view name) {
    std::uint64_t words[4] = {};
    std::memcpy(words, name.data(), name.size() < 31 ? name.size() : 31);
    for (int i = 0; i < 4; ++i) phase[i].store(words[i], std::memory_order_relaxed);
  }
  std::string phase_name() const {  // torn if it changes meanwhile, which a message to people bears
    std::uint64_t words[4];
    for (int i = 0; i < 4; ++i) words[i] = phase[i].load(std::memory_order_relaxed);
    char name[sizeof words];
    std::memcpy(name, words, sizeof words);
    name[31] = 0;
    return name;
  }
};

// Where the bytes of a message lie.
struct Place {
  std::int32_t segment = -1;  // of the sender's shared memory; −1: an address of the sender's own
  std::int32_t unused = 0;
  std::uint64_t offset = 0;  // within the segment, or the address
};

struct Slot {
  enum Kind : std::int32_t { message, receipt };
  static constexpr int kInline = 192;
  Kind kind = message;
  std::int32_t tag = 0;
  std::int64_t bytes = 0;
  std::int64_t ticket = 0;  // of the sender's message
  Place place;
  std::byte content[kInline];  // of a message that fits
};

// One writer, one reader.
struct Ring {
  static constexpr std::uint32_t kSlots = 64;
  alignas(64) std::atomic<std::uint32_t> written{0};
  alignas(64) std::atomic<std::uint32_t> read{0};
  alignas(64) Slot slots[kSlots];
};

// A view of a block of memory; empty for a rank that cannot be reached by memory.
class Inbox {
 public:
  Inbox() = default;
  explicit Inbox(std::byte* memory) : memory_(memory) {}
  static std::size_t bytes(int ranks) { return sizeof(Status) + static_cast<std::size_t>(ranks) * sizeof(Ring); }
  // memory: bytes(ranks) of them, aligned to 64.
  static Inbox make(std::byte* memory, int ranks) {
    new (memory) Status;
    for (int r = 0; r < ranks; ++r) new (memory + sizeof(Status) + static_cast<std::size_t>(r) * sizeof(Ring)) Ring;
    return Inbox(memory);
  }

  explicit operator bool() const { return memory_ != nullptr; }
  Status& status() const { return *std::launder(static_cast<Status*>(static_cast<void*>(memory_))); }
  Ring& from(int rank) const {
    void* at = memory_ + sizeof(Status) + static_cast<std::size_t>(rank) * sizeof(Ring);
    return *std::launder(static_cast<Ring*>(at));
  }

 private:
  std::byte* memory_ = nullptr;
};

}  // namespace finback::comm
