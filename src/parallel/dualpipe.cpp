#include "parallel/dualpipe.h"

#include "core/error.h"

#include <algorithm>
#include <deque>
#include <optional>

namespace finback::parallel {
namespace {

// A rank's two streams: 0 reaches it on the way to the middle of the row (to the bottom of the V), 1 on the way out.
struct Streams {
  std::array<int, 2> stage;
  std::array<int, 2> first;  // micro-batch
  int micro_batches = 0;     // of each
};

// Writes the list. Cells of a stream come in the order of their micro-batches, for forward and for backward; those past the last are
// left out, and a pair that loses one half goes on as the other.
class Writer {
 public:
  explicit Writer(const Streams& streams) : streams_(streams) {}

  void forward(int stream) {
    if (const auto cell = next(stream, forwards_)) list_.push_back({.work = Work::forward, .forward = *cell});
  }
  void backward(int stream) {
    if (const auto cell = next(stream, backwards_)) list_.push_back({.work = Work::backward, .backward = *cell});
  }
  void backward_input(int stream) {
    waiting_.push_back(next(stream, backwards_));
    if (waiting_.back()) list_.push_back({.work = Work::backward_input, .backward = *waiting_.back()});
  }
  void backward_weight() {  // of the one that has waited longest
    if (waiting_.front()) list_.push_back({.work = Work::backward_weight, .backward = *waiting_.front()});
    waiting_.pop_front();
  }
  void pair(int forward_stream, int backward_stream) {
    const auto f = next(forward_stream, forwards_), b = next(backward_stream, backwards_);
    if (f && b) list_.push_back({.work = Work::pair, .forward = *f, .backward = *b});
    else if (f) list_.push_back({.work = Work::forward, .forward = *f});
    else if (b) list_.push_back({.work = Work::backward, .backward = *b});
  }
  std::vector<Action> finish() {
    FB_CHECK(waiting_.empty(), "{} weights were left", waiting_.size());
    return std::move(list_);
  }

 private:
  std::optional<Cell> next(int stream, std::array<int, 2>& counts) {
    const auto s = static_cast<std::size_t>(stream);
    const int m = counts[s]++;
    return m < streams_.micro_batches ? std::optional(Cell{streams_.stage[s], streams_.first[s] + m}) : std::nullopt;
  }

  Streams streams_;
  std::array<int, 2> forwards_{}, backwards_{};
  std::deque<std::optional<Cell>> waiting_;
  std::vector<Action> list_;
};

// depth: ranks between this one and the end where its stream 0 enters. half: ranks from there to the middle.
std::vector<Action> eight_steps(int depth, int half, const Streams& streams) {
  const int inside = half - 1 - depth;  // ranks further in
  const int n = std::max(streams.micro_batches, 2 * half);
  Writer w(streams);
  const auto times = [](int count, auto&& step) {
    for (int i = 0; i < count; ++i) step(i);
  };

  times(2 * inside, [&](int) { w.forward(0); });  // 1. fill the way in
  times(depth + 1, [&](int) {                     // 2. fill both ways
    w.forward(0);
    w.forward(1);
  });
  times(inside, [&](int) {  // 3. the first gradients come out; the weights fill the gap after each
    w.backward_input(1);
    w.backward_weight();
    w.forward(1);
  });
  times(n - 2 * half + depth + 1, [&](int i) {  // 4. the long run of pairs
    if (i == 0 && inside == 0) {                // innermost: the first gradient is awaited, no forward should wait with it
      w.forward(0);
      w.backward(1);
    } else {
      w.pair(0, 1);
    }
    w.pair(1, 0);
  });
  times(inside, [&](int) {  // 5. no more forwards of stream 0
    w.backward(1);
    w.pair(1, 0);
  });
  times(2 * (depth + 1), [&](int i) {  // 6. no more forwards; for the second half the weights wait, since others wait for the input's
    const int stream = 1 - i % 2;
    i < depth + 1 ? w.backward(stream) : w.backward_input(stream);
  });
  times(inside, [&](int) {  // 7. the last gradients, and weights in the gaps
    w.backward_weight();
    w.backward_input(0);
  });
  times(depth + 1, [&](int) { w.backward_weight(); });  // 8. the weights left
  return w.finish();
}

}  // namespace

std::vector<Action> dualpipe(int rank, int ranks, int micro_batches) {
  const int half = micro_batches / 2, depth = std::min(rank, ranks - 1 - rank);
  return eight_steps(
      depth, ranks / 2,
      {.stage = {depth, ranks - 1 - depth}, .first = rank < ranks / 2 ? std::array{0, half} : std::array{half, 0}, .micro_batches = half});
}

std::vector<Action> dualpipev(int rank, int ranks, int micro_batches) {
  return eight_steps(rank, ranks, {.stage = {rank, 2 * ranks - 1 - rank}, .first = {0, 0}, .micro_batches = micro_batches});
}

}  // namespace finback::parallel
