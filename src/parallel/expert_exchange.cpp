#include "parallel/expert_exchange.h"

#include "core/clock.h"
#include "core/error.h"

#include <algorithm>

namespace finback::parallel {
namespace {

constexpr std::size_t kMost = 4;  // matrices under way on a stream

// As bytes of rows without gaps.
template <class Byte, class Matrix>
std::span<Byte> bytes_of(const Matrix& x) {
  FB_CHECK(x.stride == x.cols || x.rows <= 1, "rows with gaps between them");
  return {static_cast<Byte*>(x.data), static_cast<std::size_t>(x.rows * x.cols * core::size_of(x.dtype))};
}

}  // namespace

ExpertExchange::ExpertExchange(comm::Communicator& group)
    : group_(group), to_(static_cast<std::size_t>(group.size())), from_(static_cast<std::size_t>(group.size())) {
  for (auto& requests : under_way_) requests.reserve(kMost);
}

void ExpertExchange::tell(std::span<const std::int64_t> sent, std::span<std::int64_t> received) {
  to_.assign(to_.size(), static_cast<std::int64_t>(sent.size_bytes()) / group_.size());
  group_.start_all_to_all(std::as_bytes(sent), to_, std::as_writable_bytes(received), to_).wait();
}

void ExpertExchange::start(Stream stream, core::ConstMat send, std::span<const std::int64_t> rows_to, core::Mat receive,
                           std::span<const std::int64_t> rows_from) {
  FB_CHECK(send.cols == receive.cols && send.dtype == receive.dtype, "rows of {} and {}", send.cols, receive.cols);
  const std::int64_t row_bytes = send.cols * core::size_of(send.dtype);
  for (std::size_t r = 0; r < to_.size(); ++r) {
    to_[r] = rows_to[r] * row_bytes;
    from_[r] = rows_from[r] * row_bytes;
  }
  const double now = core::seconds_now();
  under_way_[stream].push_back({group_.start_all_to_all(bytes_of<const std::byte>(send), to_, bytes_of<std::byte>(receive), from_), now});
}

// Several matrices that travel together count once.
void ExpertExchange::wait(Stream stream) {
  auto& requests = under_way_[stream];
  if (requests.empty()) return;
  const double begin = core::seconds_now();
  double arrival = 0;
  for (UnderWay& u : requests) {
    u.request.wait();
    arrival = std::max(arrival, group_.times().arrival);
  }
  times_.in_flight += arrival - requests.front().since;
  times_.exposed += core::seconds_now() - begin;
  requests.clear();
}

}  // namespace finback::parallel
