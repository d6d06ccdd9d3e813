// Rotary positions (Su et al., "RoFormer", 2021) on adjacent pairs: (a, b) → (a cos − b sin, a sin + b cos).
#include "kernels/cpu/entries.h"
#include "kernels/reference/access.h"

namespace finback::kernels::reference_kernels {
namespace {

void rope(const Context&, Mat x, std::int64_t heads, std::int64_t head_stride, ConstMat cos_sin, std::span<const std::int32_t> positions,
          bool inverse) {
  FB_CHECK(std::ssize(positions) == x.rows, "{} positions for {} rows", positions.size(), x.rows);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const std::int64_t p = positions[static_cast<std::size_t>(t)];
    FB_CHECK(p >= 0 && p < cos_sin.rows, "position {} of {}", p, cos_sin.rows);
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t i = 0; i < cos_sin.cols; i += 2) {
        const std::int64_t column = h * head_stride + i;
        const double c = get(cos_sin, p, i), s = inverse ? -get(cos_sin, p, i + 1) : get(cos_sin, p, i + 1);
        const double a = get(x, t, column), b = get(x, t, column + 1);
        put(x, t, column, a * c - b * s);
        put(x, t, column + 1, a * s + b * c);
      }
  }
}

}  // namespace

void add_rope(Table& table) { table.rope = rope; }

}  // namespace finback::kernels::reference_kernels
