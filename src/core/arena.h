// Memory of a run: a few arenas, sized before the first step, from which every buffer is taken in order.
// Nothing is allocated inside a step. An arena is sized by running the same allocation code on a counting arena:
//
//   Arena count = Arena::counting();
//   plan(count);                                   // the same function …
//   Arena arena("activations", count.high_water());
//   plan(arena);                                   // … hands out real memory here
#pragma once

#include "core/tensor.h"

#include <cstdint>
#include <string>
#include <vector>

namespace finback::core {

class Arena {
 public:
  // Reserves `bytes`, aligned to 2 MiB and advised to huge pages. Pages are zero until written.
  // Throws Error(io) when the memory cannot be had.
  Arena(std::string name, std::int64_t bytes);
  // One that grows: for what is known only when it comes. What it had to reserve beyond `bytes` is its spill; it is kept for the next time.
  static Arena growing(std::string name, std::int64_t bytes);
  // Hands out null views and only counts.
  static Arena counting();
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&&) = delete;
  Arena(const Arena&) = delete;

  // 64-byte aligned. Aborts when an arena that does not grow is full: its size was computed by the same code, so that is a bug.
  void* take(std::int64_t bytes);
  template <class T>
  T* take_array(std::int64_t n) {
    return static_cast<T*>(take(n * static_cast<std::int64_t>(sizeof(T))));
  }
  Mat take_mat(DType dtype, std::int64_t rows, std::int64_t cols) { return {take(rows * cols * size_of(dtype)), dtype, rows, cols, cols}; }

  // A scope of temporary memory: release() gives back all that was taken since mark().
  std::int64_t mark() const { return used_; }
  void release(std::int64_t mark) { used_ = mark; }

  const std::string& name() const { return name_; }
  std::int64_t capacity() const { return capacity_; }
  std::int64_t used() const { return used_; }
  std::int64_t high_water() const { return high_water_; }
  std::int64_t spilled() const;  // bytes reserved since, of one that grows
  bool is_counting() const { return counting_; }

 private:
  Arena() = default;
  void* take_further(std::int64_t bytes);

  std::string name_;
  std::byte* base_ = nullptr;
  std::int64_t capacity_ = 0, used_ = 0, high_water_ = 0, mapped_ = 0;
  bool counting_ = false, growing_ = false;
  std::vector<Arena> further_;  // one after the other, as marks count
};

// Releases what was taken during its life.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  std::int64_t mark_;
};

}  // namespace finback::core
