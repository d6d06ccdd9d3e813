#include "core/spans.h"

#include "core/clock.h"
#include "core/error.h"

#include <algorithm>

namespace finback::core {

Spans::Spans(std::int64_t capacity) : ring_(static_cast<std::size_t>(capacity)) { FB_CHECK(capacity > 0, "a ring of {} spans", capacity); }

std::int64_t Spans::begin(const char* name, std::int64_t layer, const Work& work) {
  const bool inherits = layer < 0 && open_ >= first();
  const std::int64_t number = count_;
  Span& span = ring_[slot(number)];
  span = {name, inherits ? (*this)[open_].layer : layer, open_, seconds_now(), 0, work};
  ++count_;
  return open_ = number;
}

void Spans::end(std::int64_t number) {
  const double now = seconds_now();
  if (number < first()) {  // overwritten by the spans within it, as are those around it
    open_ = -1;
    return;
  }
  FB_CHECK(number == open_, "span {} ends before span {}", number, open_);
  Span& span = ring_[slot(number)];
  span.end = now;
  open_ = span.parent;
}

std::int64_t Spans::first() const { return std::max<std::int64_t>(0, count_ - static_cast<std::int64_t>(ring_.size())); }

}  // namespace finback::core
