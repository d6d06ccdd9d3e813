// Where time goes: named spans of one thread, nested, in a ring that is reserved beforehand. A kernels::Context carries it. Without
// one nothing is recorded, and a scope costs a comparison.
#pragma once

#include <cstdint>
#include <vector>

namespace finback::core {

// What was done within a span, where that is known.
struct Work {
  double flops = 0;
  double read = 0, written = 0;  // bytes: each operand once, whatever the caches do
};

struct Span {
  const char* name = "";      // a literal
  std::int64_t layer = -1;    // −1: outside of the layers
  std::int64_t parent = -1;   // number of the span around it; −1: none
  double begin = 0, end = 0;  // seconds_now(); end 0: not over yet
  Work work;
};

// Used by one thread at a time. Spans are numbered from 0 as they begin; of many, the last `capacity` are held.
class Spans {
 public:
  explicit Spans(std::int64_t capacity);

  // A layer of −1 is that of the span around it. Returns the number.
  std::int64_t begin(const char* name, std::int64_t layer = -1, const Work& work = {});
  void end(std::int64_t number);  // the one begun last of those not over

  // The spans held are first() … count()-1.
  std::int64_t first() const;
  std::int64_t count() const { return count_; }
  const Span& operator[](std::int64_t number) const { return ring_[slot(number)]; }

 private:
  std::size_t slot(std::int64_t number) const { return static_cast<std::size_t>(number) % ring_.size(); }
  std::vector<Span> ring_;
  std::int64_t count_ = 0, open_ = -1;
};

// Some tens of steps of a small model, in 6 MB.
constexpr std::int64_t kSpansOfARun = std::int64_t{1} << 16;

// A span as long as a block of code; nothing where spans is null.
class SpanScope {
 public:
  explicit SpanScope(Spans* spans, const char* name, std::int64_t layer = -1, const Work& work = {})
      : spans_(spans), number_(spans ? spans->begin(name, layer, work) : 0) {}
  ~SpanScope() {
    if (spans_) spans_->end(number_);
  }
  SpanScope(const SpanScope&) = delete;

 private:
  Spans* spans_;
  std::int64_t number_;
};

}  // namespace finback::core
