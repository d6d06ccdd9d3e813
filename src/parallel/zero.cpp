#include "parallel/zero.h"

#include "core/error.h"

#include <cstring>
#include <utility>

namespace finback::parallel {
namespace {

std::span<std::byte> bytes(const core::Mat& x) { return {static_cast<std::byte*>(x.data), static_cast<std::size_t>(x.bytes())}; }

// Starts one request after the other with two under way: one's sums are formed while the other's messages travel.
class Window {
 public:
  void add(comm::Request request) {
    before_.wait();
    before_ = std::exchange(last_, std::move(request));
  }
  void wait() {
    before_.wait();
    last_.wait();
  }

 private:
  comm::Request before_, last_;
};

}  // namespace

Zero::Zero(comm::Communicator& ranks, const model::ParameterList& list) : ranks_(ranks), shards_(list, ranks.size()) {}

void Zero::sum_gradients(const model::SlabBuffers& gradients) {
  Window window;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(ranks_.size()));
  for (std::size_t s = 0; s < gradients.slabs.size(); ++s) {
    const core::Mat& g = gradients.slabs[s];
    if (!g) continue;
    FB_CHECK(g.dtype == core::DType::f32, "slab {}: only gradients in FP32 are summed over ranks", s);
    for (int r = 0; r < ranks_.size(); ++r) counts[static_cast<std::size_t>(r)] = (shards_.end(s, r) - shards_.begin(s, r)) * g.cols;
    const std::span all(static_cast<float*>(g.data), static_cast<std::size_t>(g.size()));
    const auto first = static_cast<std::size_t>(shards_.begin(s, ranks_.rank()) * g.cols);
    window.add(ranks_.start_reduce_scatter(std::span<const float>(all), counts,
                                           all.subspan(first, static_cast<std::size_t>(counts[static_cast<std::size_t>(ranks_.rank())]))));
  }
  window.wait();
}

void Zero::gather_weights(const model::SlabBuffers& weights) {
  Window window;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(ranks_.size()));
  const auto gather = [&](std::size_t slab, core::Mat model::WeightRows::*part) {
    const core::Mat all = part == &model::WeightRows::numbers ? weights.slabs[slab] : weights.scales[slab];
    core::Mat mine;
    for (int r = 0; r < ranks_.size(); ++r) {
      const core::Mat theirs = model::weight_rows(weights, slab, shards_.begin(slab, r), shards_.end(slab, r)).*part;
      counts[static_cast<std::size_t>(r)] = theirs.bytes();
      if (r == ranks_.rank()) mine = theirs;
    }
    window.add(ranks_.start_all_gather(bytes(mine), counts, bytes(all)));
  };
  for (std::size_t s = 0; s < weights.slabs.size(); ++s) {
    if (!shards_.split(s)) continue;
    gather(s, &model::WeightRows::numbers);
    if (!weights.scales.empty() && weights.scales[s]) gather(s, &model::WeightRows::scales);
  }
  window.wait();
}

void Zero::collect(const model::SlabBuffers& share, const model::SlabBuffers* whole) {
  constexpr int kTag = 0;
  for (std::size_t s = 0; s < share.slabs.size(); ++s) {
    const core::Mat& mine = share.slabs[s];
    if (!mine.cols) continue;
    if (!whole) {
      if (shards_.split(s) && mine.rows > 0) ranks_.start_send(0, kTag, bytes(mine)).wait();
      continue;
    }
    const core::Mat& all = whole->slabs[s];
    std::memcpy(all.data, mine.data, static_cast<std::size_t>(mine.bytes()));
    if (!shards_.split(s)) continue;
    for (int r = 1; r < ranks_.size(); ++r) {
      const core::Mat theirs = all.row_range(shards_.begin(s, r), shards_.end(s, r) - shards_.begin(s, r));
      if (theirs.rows > 0) ranks_.start_receive(r, kTag, bytes(theirs)).wait();
    }
  }
}

}  // namespace finback::parallel
