// Rotary positions, as in kernels/reference/rope.cpp: eight pairs at a time.
#include "kernels/cpu/entries.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/kernels.h"

namespace finback::kernels::FB_ISA {
namespace {

template <class T>
void rope_as(const Context& ctx, Mat x, int64_t heads, int64_t head_stride, ConstMat cos_sin, const int32_t* positions, bool inverse) {
  const int64_t width = cos_sin.cols;
  vf sign;
  for (int i = 0; i < kLanes; ++i) sign[i] = (i % 2 == 0) != inverse ? -1.0f : 1.0f;
  for_ranges(ctx.team, split_rows(x.rows, heads * width), [&](Range rows, int) {
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      check_index("position", positions[t], cos_sin.rows);
      const float* angle = cos_sin.row<float>(positions[t]);
      for (int64_t i = 0; i < width; i += kLanes) {
        const vf cs = load(angle + i, width - i);
        const vf cos = __builtin_shufflevector(cs, cs, 0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14);
        const vf sin = sign * __builtin_shufflevector(cs, cs, 1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15);
        T* p = x.row<T>(t) + i;
        for (int64_t h = 0; h < heads; ++h, p += head_stride) {
          const vf v = load(p, width - i);
          const vf swapped = __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
          store(p, v * cos + swapped * sin, width - i);
        }
      }
    }
  });
}

void rope(const Context& ctx, Mat x, int64_t heads, int64_t head_stride, ConstMat cos_sin, std::span<const int32_t> positions,
          bool inverse) {
  if (x.dtype == DType::bf16) rope_as<uint16_t>(ctx, x, heads, head_stride, cos_sin, positions.data(), inverse);
  else if (x.dtype == DType::f32) rope_as<float>(ctx, x, heads, head_stride, cos_sin, positions.data(), inverse);
  else reference().rope(ctx, x, heads, head_stride, cos_sin, positions, inverse);
}

}  // namespace

void add_rope(Table& table) { table.rope = rope; }

}  // namespace finback::kernels::FB_ISA
