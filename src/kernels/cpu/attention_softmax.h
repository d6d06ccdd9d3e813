// The running softmax of attention's forward functions: a block's scores become weights, relative to the highest score so far.
#pragma once

#include "kernels/cpu/attention_tile.h"

namespace finback::kernels::FB_ISA {
namespace {

constexpr int64_t kKeys = kPage;  // of a block
constexpr int kSums = 4;          // a block's weights are added as so many interleaved sums
constexpr float kLn2 = 0.69314718f, kInfinity = __builtin_inff();
static_assert(kKeys % kRowLanes == 0);

// One block of keys (a multiple of kSums) for up to kGroup queries: raises `top` to the block's highest score, turns scores into
// weights 2^(score · scale − top) and adds them to `sum`; `factor` is what the rise does to older weights. The first `unmasked` keys are
// seen by all; key j by those of the register of lanes at l for which sees(j, l).
template <class T, class Sees>
void weigh(float* scores, int64_t keys, int64_t lanes, int64_t unmasked, Sees sees, float scale, float* top, float* sum, float* factor,
           Unit* weights) {
  for (int64_t l = 0; l < lanes; l += kRegister) {
    vr part[4];  // so that one maximum need not wait for another
    for (vr& p : part) p = splat_r(-kInfinity);
    int64_t row = 0;
    for (; row + 4 <= unmasked; row += 4)
#pragma GCC unroll 4
      for (int64_t i = 0; i < 4; ++i) part[i] = vmax(load_r(scores + (row + i) * kGroup + l), part[i]);
    vr highest = vmax(vmax(part[0], part[1]), vmax(part[2], part[3]));
    for (; row < unmasked; ++row) highest = vmax(load_r(scores + row * kGroup + l), highest);
    for (int64_t j = unmasked; j < keys; ++j) {
      const vr x = sees(j, l) ? load_r(scores + j * kGroup + l) : splat_r(-kInfinity);
      store_r(scores + j * kGroup + l, x);
      highest = vmax(x, highest);
    }
    const vr before = load_r(top + l), now = vmax(highest * scale, before), rise = vexp2(before - now);
    const auto weight = [&](int64_t j) { return weight_of<T>(madd(load_r(scores + j * kGroup + l), splat_r(scale), -now)); };
    vr of_block[kSums] = {};
    for (int64_t j = 0; j < keys; j += kSums) {
      vr w[kSums];
#pragma GCC unroll 4
      for (int i = 0; i < kSums; ++i) {
        w[i] = weight(j + i);
        of_block[i] += w[i];
        if constexpr (!kPairs<T>) store_r(weights + (j + i) * kGroup + l, w[i]);
      }
      if constexpr (kPairs<T>) {
        store_pairs(weights + j / 2 * kGroup + l, w[0], w[1]);
        store_pairs(weights + (j / 2 + 1) * kGroup + l, w[2], w[3]);
      }
    }
    const vr total = madd(load_r(sum + l), rise, (of_block[0] + of_block[1]) + (of_block[2] + of_block[3]));
    store_r(top + l, now);
    store_r(sum + l, total);
    store_r(factor + l, rise);
  }
}

// The first `seen` scores of a block to weights, the others to zero; as weigh(). Returns what the block's rise of top
// does to older weights.
template <class T>
float weigh_row(float* scores, int64_t seen, float scale, float& top, float& sum, [[maybe_unused]] Element<T>* weights) {
  vr highest = splat_r(-kInfinity);
  for (int64_t j = 0; j < kKeys; j += kRegister) {
    const vr x = lane_numbers() + static_cast<float>(j) < static_cast<float>(seen) ? load_r(scores + j) : splat_r(-kInfinity);
    store_r(scores + j, x);
    highest = vmax(x, highest);
  }
  float block_top = highest[0];
  for (int i = 1; i < kRegister; ++i) block_top = vmax(highest[i], block_top);
  const float before = top, scaled = block_top * scale;
  top = vmax(scaled, before);
  const float rise = vexp2(splat_r(before - top))[0];

  for (int64_t j = 0; j < kKeys; j += kRegister) {
    const vr w = weight_of<T>(madd(load_r(scores + j), splat_r(scale), splat_r(-top)));
    store_r(scores + j, w);
    if constexpr (kPairs<T>) store_halves(weights + j, w);
  }
  float of_block[kSums] = {};
  for (int64_t j = 0; j < kKeys; j += kSums)
    for (int i = 0; i < kSums; ++i) of_block[i] += scores[j + i];
  sum = madd(sum, rise, (of_block[0] + of_block[1]) + (of_block[2] + of_block[3]));
  return rise;
}

}  // namespace
}  // namespace finback::kernels::FB_ISA
