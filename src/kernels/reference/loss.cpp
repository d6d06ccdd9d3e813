// Cross entropy of the next token, its argmax and its gradient, one row of logits at a time.
#include "kernels/cpu/entries.h"
#include "kernels/reference/access.h"

#include <cmath>

namespace finback::kernels::reference_kernels {
namespace {

void cross_entropy(const Context&, ConstMat logits, std::span<const std::int32_t> targets, double scale, Mat loss, Mat best, Mat dlogits) {
  FB_CHECK(std::ssize(targets) == logits.rows && logits.cols > 0, "{} targets for {} × {} logits", targets.size(), logits.rows,
           logits.cols);
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    const std::int64_t target = targets[static_cast<std::size_t>(t)];
    FB_CHECK(target >= -1 && target < logits.cols, "target {} of {}", target, logits.cols);
    std::int64_t highest = 0;  // NaN is never higher than a number
    for (std::int64_t w = 1; w < logits.cols; ++w)
      if (get(logits, t, w) > get(logits, t, highest) || (std::isnan(get(logits, t, highest)) && !std::isnan(get(logits, t, w))))
        highest = w;
    const double max = get(logits, t, highest);
    double sum = 0;
    for (std::int64_t w = 0; w < logits.cols; ++w) sum += std::exp(get(logits, t, w) - max);
    put(loss, 0, t, target < 0 ? 0 : std::log(sum) + max - get(logits, t, target));
    if (best) put(best, 0, t, static_cast<double>(highest));
    if (!dlogits) continue;
    for (std::int64_t w = 0; w < logits.cols; ++w) {
      const double p = std::exp(get(logits, t, w) - max) / sum;
      put(dlogits, t, w, target < 0 ? 0 : scale * (w == target ? p - 1 : p));
    }
  }
}

}  // namespace

void add_loss(Table& table) { table.cross_entropy = cross_entropy; }

}  // namespace finback::kernels::reference_kernels
