// A sum as Hopper's tensor core forms it for FP8 operands: in fixed point of few bits [V3 §3.3.2, §3.5.2].
//
// One instruction adds up to 32 products (its K) to the running sum. The products are exact. They and the running sum are aligned
// to the largest exponent among them, and what lies below 2^(largest exponent − (bits − 1)) is cut off, towards zero; the aligned
// numbers are added without error; of the sum the `bits` leading bits are kept, the rest is cut off again. The published width is
// 14 bits (a sign, 8 bits of exponent and 13 of fraction: "FP22").
//
// A product's exponent is the sum of its factors' exponents: the hardware aligns before it normalises, so a product of significands
// may reach 4. That, the truncation and the width of the result follow the model of Xie et al., "MMA-Sim" (arXiv 2511.10909), which
// was held against the hardware bit by bit; what it does with subnormal factors (theirs keep the format's least exponent) is left
// out here: ours are normalised first.
#pragma once

#include <cmath>
#include <span>

namespace finback::numerics {

class NarrowSum {
 public:
  static constexpr int kTerms = 32;  // one instruction's K

  struct Term {
    double value;
    int exponent;  // the sum of the factors' exponents
  };
  static Term product(float a, float b, double scale = 1) {
    const double value = static_cast<double>(a) * static_cast<double>(b) * scale;
    return {value, value == 0 || !std::isfinite(value) ? 0 : std::ilogb(a) + std::ilogb(b) + std::ilogb(scale)};
  }

  explicit NarrowSum(int bits) : bits_(bits) {}

  // One instruction: at most kTerms terms. A NaN or infinity among them makes the sum NaN from then on.
  void add(std::span<const Term> terms) {
    int largest = sum_ == 0 ? -10000 : std::ilogb(sum_);
    for (const Term& t : terms) {
      if (!std::isfinite(t.value)) sum_ = NAN;
      if (t.value != 0 && t.exponent > largest) largest = t.exponent;
    }
    if (largest == -10000 || std::isnan(sum_)) return;
    const int unit = largest - (bits_ - 1);
    double total = std::trunc(std::ldexp(sum_, -unit));
    for (const Term& t : terms) total += std::trunc(std::ldexp(t.value, -unit));
    if (total != 0) {
      const int below = std::ilogb(total) - (bits_ - 1);
      if (below > 0) total = std::ldexp(std::trunc(std::ldexp(total, -below)), below);
    }
    sum_ = std::ldexp(total, unit);
  }

  double value() const { return sum_; }

 private:
  int bits_;
  double sum_ = 0;
};

}  // namespace finback::numerics
