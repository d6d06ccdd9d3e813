// Tokens to their experts' slots, and the slots' results back to tokens, as in kernels/reference/permute.cpp.
#include "kernels/cpu/entries.h"
#include "kernels/cpu/prefetch.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/kernels.h"

namespace finback::kernels::FB_ISA {
namespace {

constexpr int64_t kRowsAhead = 2;  // of a token, which no machine foresees

void gather_rows(const Context& ctx, ConstMat x, std::span<const int32_t> slot_token, Mat y) {
  const int32_t* token = slot_token.data();
  const auto row_bytes = static_cast<size_t>(y.cols * core::size_of(y.dtype));
  for_ranges(ctx.team, split_rows(y.rows, y.cols), [&](Range rows, int) {
    for (int64_t s = rows.begin; s < rows.end; ++s) {
      check_index("token", token[s], x.rows);
      if (const int64_t later = s + kRowsAhead; later < rows.end) {
        ask_for(static_cast<const char*>(x.at(token[later], 0)), static_cast<int64_t>(row_bytes));
        ask_for_output(static_cast<char*>(y.at(later, 0)), static_cast<int64_t>(row_bytes));
      }
      memcpy(y.at(s, 0), x.at(token[s], 0), row_bytes);
    }
  });
}

constexpr int64_t kStrip = 4;  // vectors of a row that are summed at once

// One strip of one token. The experts ascend, so that a routing group ends where an id passes its upper bound.
template <class T, bool whole>
inline void combine_strip(ConstMat slots, const int32_t* expert, const int32_t* slot, int64_t chosen, int64_t per_group, const T* addend,
                          int64_t column, int64_t columns, T* out) {
  const auto lanes = [&](int64_t j) { return whole ? int64_t{kLanes} : columns - j * kLanes; };  // none for what is not > 0
  vf sum[kStrip] = {};
  if (addend)
    for (int64_t j = 0; j < kStrip; ++j)
      if (lanes(j) > 0) sum[j] = load(addend + column + j * kLanes, lanes(j));
  vf of_group[kStrip] = {};
  int64_t bound = per_group;
  for (int64_t k = 0; k < chosen; ++k) {
    if (expert[k] >= bound) {
      for (int64_t j = 0; j < kStrip; ++j) {
        sum[j] += round_to<T>(of_group[j]);
        of_group[j] = vf{};
      }
      while (expert[k] >= bound) bound += per_group;
    }
    const T* p = slots.row<T>(slot[k]) + column;
    for (int64_t j = 0; j < kStrip; ++j)
      if (lanes(j) > 0) of_group[j] += load(p + j * kLanes, lanes(j));
  }
  for (int64_t j = 0; j < kStrip; ++j)
    if (lanes(j) > 0) store(out + column + j * kLanes, sum[j] + round_to<T>(of_group[j]), lanes(j));
}

template <class T>
void combine_as(const Context& ctx, ConstMat slots, ConstMat ids, ConstMat token_slots, int64_t per_group, ConstMat addend, Mat y) {
  const int64_t n = y.cols, chosen = ids.cols;
  for_ranges(ctx.team, split_rows(y.rows, n * (chosen + 1)), [&](Range rows, int) {
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      const int32_t *expert = ids.row<int32_t>(t), *slot = token_slots.row<int32_t>(t);
      for (int64_t k = 0; k < chosen; ++k) check_index("slot", slot[k], slots.rows);
      const T* pa = addend ? addend.row<T>(t) : nullptr;
      T* py = y.row<T>(t);
      int64_t i = 0;
      for (; i + kStrip * kLanes <= n; i += kStrip * kLanes)
        combine_strip<T, true>(slots, expert, slot, chosen, per_group, pa, i, n - i, py);
      if (i < n) combine_strip<T, false>(slots, expert, slot, chosen, per_group, pa, i, n - i, py);
    }
  });
}

void combine_rows(const Context& ctx, ConstMat slots, ConstMat ids, ConstMat token_slots, int64_t per_group, ConstMat addend, Mat y) {
  if (y.dtype == DType::bf16) combine_as<uint16_t>(ctx, slots, ids, token_slots, per_group, addend, y);
  else if (y.dtype == DType::f32) combine_as<float>(ctx, slots, ids, token_slots, per_group, addend, y);
  else reference().combine_rows(ctx, slots, ids, token_slots, per_group, addend, y);
}

}  // namespace

void add_permute(Table& table) {
  table.gather_rows = gather_rows;
  table.combine_rows = combine_rows;
}

}  // namespace finback::kernels::FB_ISA
