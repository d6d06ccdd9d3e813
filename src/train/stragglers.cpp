#include "train/stragglers.h"

#include "core/error.h"

#include <fmt/format.h>

#include <algorithm>

namespace finback::train {

Stragglers::Stragglers(std::vector<int> work) : work_(std::move(work)), sums_(work_.size()) {}

std::vector<Stragglers::Slow> Stragglers::add(std::span<const RankTime> times) {
  FB_CHECK(times.size() == sums_.size(), "{} times of {} ranks", times.size(), sums_.size());
  for (std::size_t r = 0; r < times.size(); ++r) {
    sums_[r].compute += times[r].compute;
    sums_[r].waiting += times[r].waiting;
    sums_[r].exchange += times[r].exchange;
  }
  if (++steps_ < kSteps) return {};

  std::vector<Slow> slow;
  for (std::size_t r = 0; r < sums_.size(); ++r) {
    const bool alone = std::count(work_.begin(), work_.end(), work_[r]) == 1;
    std::vector<double> others;
    for (std::size_t o = 0; o < sums_.size(); ++o)
      if (o != r && (alone || work_[o] == work_[r])) others.push_back(sums_[o].compute);
    if (others.empty()) continue;
    const auto middle = others.begin() + static_cast<std::ptrdiff_t>(others.size() / 2);
    std::nth_element(others.begin(), middle, others.end());
    if (*middle > 0 && sums_[r].compute > kSlow * *middle)
      slow.push_back({static_cast<int>(r),
                      sums_[r].compute / *middle,
                      {sums_[r].compute / steps_, sums_[r].waiting / steps_, sums_[r].exchange / steps_}});
  }
  sums_.assign(sums_.size(), {});
  steps_ = 0;
  return slow;
}

std::string describe(const Stragglers::Slow& slow, const std::string& name) {
  const double percent = 100 / slow.time.total();
  return fmt::format(
      "{} computes {:.1f} times as long as the others: {:.0f} % of its time in compute, {:.0f} % waiting, {:.0f} % in exchange", name,
      slow.of_median, percent * slow.time.compute, percent * slow.time.waiting, percent * slow.time.exchange);
}

}  // namespace finback::train
