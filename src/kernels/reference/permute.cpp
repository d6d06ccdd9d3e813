// Tokens to their experts' slots, and the slots' results back to tokens.
#include "kernels/cpu/entries.h"
#include "kernels/reference/access.h"

namespace finback::kernels::reference_kernels {
namespace {

void gather_rows(const Context&, ConstMat x, std::span<const std::int32_t> slot_token, Mat y) {
  FB_CHECK(std::ssize(slot_token) == y.rows, "{} slots for {} rows", slot_token.size(), y.rows);
  for (std::int64_t s = 0; s < y.rows; ++s) {
    const std::int64_t t = slot_token[static_cast<std::size_t>(s)];
    FB_CHECK(t >= 0 && t < x.rows, "token {} of {}", t, x.rows);
    for (std::int64_t d = 0; d < y.cols; ++d) put(y, s, d, get(x, t, d));
  }
}

void combine_rows(const Context&, ConstMat slots, ConstMat ids, ConstMat token_slots, std::int64_t experts_per_group, ConstMat addend,
                  Mat y) {
  for (std::int64_t t = 0; t < y.rows; ++t) {
    const std::int32_t* slot = token_slots.row<std::int32_t>(t);
    const std::int32_t* expert = ids.row<std::int32_t>(t);
    for (std::int64_t k = 0; k < ids.cols; ++k) FB_CHECK(slot[k] >= 0 && slot[k] < slots.rows, "slot {} of {}", slot[k], slots.rows);
    for (std::int64_t d = 0; d < y.cols; ++d) {
      double sum = addend ? get(addend, t, d) : 0;
      for (std::int64_t k = 0; k < ids.cols;) {
        const std::int64_t group = expert[k] / experts_per_group;
        double of_group = 0;
        for (; k < ids.cols && expert[k] / experts_per_group == group; ++k) of_group += get(slots, slot[k], d);
        sum += round_to(y.dtype, of_group);
      }
      put(y, t, d, sum);
    }
  }
}

}  // namespace

void add_permute(Table& table) {
  table.gather_rows = gather_rows;
  table.combine_rows = combine_rows;
}

}  // namespace finback::kernels::reference_kernels
