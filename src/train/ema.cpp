#include "train/ema.h"

#include <cstring>

namespace finback::train {

std::int64_t Ema::bytes_needed(const model::ParameterList& list, core::DType dtype) {
  core::Arena count = core::Arena::counting();
  model::take_slabs(count, list, dtype);
  return count.high_water();
}

Ema::Ema(const model::ParameterList& list, const model::SlabBuffers& masters, double decay)
    : masters_(masters),
      decay_(decay),
      arena_("moving average", bytes_needed(list, masters.slabs.front().dtype)),
      values_(model::take_slabs(arena_, list, masters.slabs.front().dtype)),
      background_([this] { step(); }) {}

void Ema::restart() {
  wait();
  for (std::size_t s = 0; s < values_.slabs.size(); ++s)
    std::memcpy(values_.slabs[s].data, masters_.slabs[s].data, static_cast<std::size_t>(values_.slabs[s].bytes()));
}

namespace {
template <class T>
void average(T decay, const T* w, T* mean, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) mean[i] += (1 - decay) * (w[i] - mean[i]);
}
}  // namespace

void Ema::step() {
  for (std::size_t s = 0; s < values_.slabs.size(); ++s) {
    const core::Mat &w = masters_.slabs[s], &mean = values_.slabs[s];
    if (w.dtype == core::DType::f64) average(decay_, w.row<double>(0), mean.row<double>(0), mean.size());
    else average(static_cast<float>(decay_), w.row<float>(0), mean.row<float>(0), mean.size());
  }
}

}  // namespace finback::train
