// How a loop over rows becomes tasks of a team: a fixed number of elements each, so that a task outweighs its start and what
// one task is depends on sizes alone. Included only by files that are compiled per instruction set.
#pragma once

#include "core/team.h"
#include "core/tensor.h"

#include <stdint.h>

namespace {

constexpr int64_t kTaskElements = 32768;  // some tens of microseconds

// Items begin … end-1 of one task.
struct Range {
  int64_t begin, end;
};

struct Split {
  int64_t items, per_task;
  int64_t tasks() const { return (items + per_task - 1) / per_task; }
  Range operator[](int64_t task) const {
    const int64_t begin = task * per_task, end = begin + per_task;
    return {begin, end < items ? end : items};
  }
};

inline Split split_rows(int64_t rows, int64_t cols) {
  const int64_t per_task = cols > 0 ? kTaskElements / cols : rows;
  return {rows, per_task > 0 ? per_task : 1};
}

// Runs body(range, thread) for every task of the split.
template <class Body>
inline void for_ranges(finback::core::Team& team, const Split& split, const Body& body) {
  struct Call {
    const Split& split;
    const Body& body;
  } call{split, body};
  team.run(
      split.tasks(),
      [](void* argument, int64_t task, int thread) {
        const Call& c = *static_cast<const Call*>(argument);
        c.body(c.split[task], thread);
      },
      &call);
}

// Runs body(row, columns) over a whole matrix, element by element: one without gaps (in every view of it) is a single long row.
template <class Body>
inline void for_elements(finback::core::Team& team, int64_t rows, int64_t cols, bool gapless, const Body& body) {
  if (gapless) {
    for_ranges(team, {rows * cols, kTaskElements}, [&](Range columns, int) { body(int64_t{0}, columns); });
  } else {
    for_ranges(team, split_rows(rows, cols), [&](Range range, int) {
      for (int64_t row = range.begin; row < range.end; ++row) body(row, Range{0, cols});
    });
  }
}

// Aborts (a bug of ours) when an index does not lie in 0 … of-1.
inline void check_index(const char* what, int64_t index, int64_t of) {
  if (index < 0 || index >= of) finback::core::range_failed(what, index, 1, of);
}

// What the tasks of a call count together. Whole numbers: their order does not show.
class Count {
 public:
  void add(int64_t n) {
    if (n) __atomic_fetch_add(&total_, n, __ATOMIC_RELAXED);
  }
  int64_t total() const { return total_; }

 private:
  int64_t total_ = 0;
};

}  // namespace
