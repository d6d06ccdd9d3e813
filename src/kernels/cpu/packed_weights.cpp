// Weights in the order in which the forward products read them: panels of kPanel rows of w, unit by unit (product.h), or strips of codes
// (codes.h). Each group of a stack is packed by itself.
#include "kernels/cpu/entries.h"
#include "kernels/cpu/linear_groups.h"
#include "kernels/kernels.h"

namespace finback::kernels::FB_ISA {
namespace {

// The table that multiplies a type which is not for this one packs it too.
const Table* other_table(DType type) {
  if (type == DType::f64) return &reference();
  if (type == DType::f32 && kMatrices) return &by_name("avx512bf16");
  return nullptr;
}

struct Packing {
  WeightView w;
  char* to;
  int64_t panels;
};

template <class T, bool kPairs>
void pack_panel(const Packing& p, const char* from, int64_t panel, char* group) {
  const int64_t column = panel * kPanel, units = units_of(p.w.cols, kPairs);
  const Operand lines{from, p.w.cols, true, p.w.rows, p.w.cols};
  pack_strips<T, kPairs, kStrip>(lines, column, kPanel, min(kPanel, p.w.rows - column), 0, units, units * kStrip,
                                 reinterpret_cast<uint32_t*>(group) + panel * units * kPanel);
}

void pack_codes_panel(const Packing& p, const char* from, int64_t panel, char* group) {
  const int64_t strip = ceil_div(p.w.cols, kTile) * kTile * 16, first = panel * kPanel;
  memset(group + first / 16 * strip, 0, static_cast<size_t>(kPanel / 16 * strip));
  for (int64_t n = first; n < min(first + kPanel, p.w.rows); ++n)
    for (int64_t k = 0; k < p.w.cols; ++k) group[n / 16 * strip + packed_code<kMultipliesPairs>(k, n % 16)] = from[n * p.w.cols + k];
}

void packing_of_panel(void* argument, int64_t task, int) {
  const Packing& p = *static_cast<const Packing*>(argument);
  const int64_t g = task / p.panels, panel = task % p.panels;
  const auto* from = static_cast<const char*>(p.w.data) + g * p.w.rows * p.w.cols * core::size_of(p.w.dtype);
  char* group = p.to + g * packed_group_bytes(p.w);
  if (p.w.dtype == DType::bf16) return pack_panel<uint16_t, kMultipliesPairs>(p, from, panel, group);
#if !defined(__AMX_BF16__)
  if (p.w.dtype == DType::f32) return pack_panel<float, false>(p, from, panel, group);
#endif
  pack_codes_panel(p, from, panel, group);
}

int64_t packed_bytes(const Context& ctx, const WeightView& w) {
  if (const Table* other = other_table(w.dtype)) return other->packed_bytes(ctx, w);
  return w.groups * packed_group_bytes(w);
}

void pack_weights(const Context& ctx, const WeightView& w, void* to) {
  if (const Table* other = other_table(w.dtype)) return other->pack_weights(ctx, w, to);
  Packing p{w, static_cast<char*>(to), ceil_div(w.rows, kPanel)};
  ctx.team.run(w.groups * p.panels, packing_of_panel, &p);
}

}  // namespace

void add_packed_weights(Table& table) {
  table.packed_bytes = packed_bytes;
  table.pack_weights = pack_weights;
}

}  // namespace finback::kernels::FB_ISA
