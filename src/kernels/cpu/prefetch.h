// Asking the memory ahead of time. Included only by files that are compiled per instruction set.
#pragma once

#include <stdint.h>

namespace {

// Asks for n elements that will be read, or for the place of n that will be written. The machine itself looks ahead of
// reads that go on and on, less so of reads in strips between which something is computed, and hardly of writes.
constexpr int64_t kLine = 64;
template <class T>
inline void ask_for(const T* x, int64_t n) {
  for (int64_t i = 0; i < n; i += kLine / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(x + i);
}
template <class T>
inline void ask_for_output(const T* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLine / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(y + i, /*write=*/1);
}
template <class T>
constexpr int64_t kAhead = 2048 / static_cast<int64_t>(sizeof(T));  // elements: some hundred nanoseconds

}  // namespace
