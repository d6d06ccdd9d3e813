// What every kernel test needs: matrices of random numbers that are fenced by sentinels, one measure of difference, a comparison
// of bits that names the first bad coordinate, and the tables and contexts to run on.
//
//   for (std::string_view isa : fast_tables()) {
//     SCOPED_TRACE(isa);
//     Machine machine(isa, /*threads=*/2);
//     const Fenced x = random_matrix(DType::bf16, 33, 129, /*substream=*/1);
//     Fenced y(DType::bf16, 33, 129, /*gap=*/3), want = y;
//     machine.context().kernels.add(machine.context(), x, x, y);
//     reference().add(machine.context(), x, x, want);
//     EXPECT_TRUE(close(y, want, {.relative = half_ulp(DType::bf16)}));
//     EXPECT_TRUE(y.fences_stand());
//   }
#pragma once

#include "core/rng.h"
#include "kernels/kernels.h"
#include "kernels/reference/access.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace finback::kernels::test {

using reference_kernels::get;
using reference_kernels::put;

// A matrix of its own memory. Everything is filled with a NaN of a known pattern: fences of some rows before and after,
// `gap` elements between one row and the next, and the elements themselves until they are written. So a kernel that writes
// outside its output is caught by fences_stand(), and one that uses what it must not read produces NaN.
class Fenced {
 public:
  Fenced(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t gap = 0)
      : dtype_(dtype), rows_(rows), cols_(cols), stride_(cols + gap), size_(core::size_of(dtype)) {
    memory_.resize(static_cast<std::size_t>((rows_ * stride_ + 2 * kFence) * size_));
    for (std::size_t i = 0; i < memory_.size(); ++i) memory_[i] = sentinel(i);
  }

  Mat mat() { return {memory_.data() + kFence * size_, dtype_, rows_, cols_, stride_}; }
  ConstMat mat() const { return {memory_.data() + kFence * size_, dtype_, rows_, cols_, stride_}; }
  operator Mat() { return mat(); }
  operator ConstMat() const { return mat(); }

  testing::AssertionResult fences_stand() const {
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      const std::int64_t at = static_cast<std::int64_t>(i) / size_ - kFence;
      const bool inside = at >= 0 && at < rows_ * stride_ && at % stride_ < cols_;
      if (!inside && memory_[i] != sentinel(i))
        return testing::AssertionFailure() << "written out of bounds, at element " << at << " of a " << rows_ << " x " << cols_
                                           << " matrix with stride " << stride_;
    }
    return testing::AssertionSuccess();
  }

 private:
  // A NaN as bf16, and doubled or fourfold as f32 and f64; in bytes, of which every other is a NaN as e4m3 and e5m2.
  static constexpr std::uint8_t sentinel(std::size_t i) { return i % 2 ? 0xff : 0xa5; }
  static constexpr std::int64_t kFence = 128;  // an even number of bytes: patterns keep their place
  DType dtype_;
  std::int64_t rows_, cols_, stride_, size_;
  std::vector<std::uint8_t> memory_;
};

// scale · normal, rounded to the type; `substream` tells the matrices of a test apart.
inline Fenced random_matrix(DType dtype, std::int64_t rows, std::int64_t cols, std::uint32_t substream, double scale = 1,
                            std::int64_t gap = 0) {
  const core::Rng rng(/*seed=*/1, core::Stream::test, substream);
  Fenced m(dtype, rows, cols, gap);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c) put(m, r, c, scale * rng.normal(static_cast<std::uint64_t>(r * cols + c)));
  return m;
}

inline Fenced constant_matrix(DType dtype, std::int64_t rows, std::int64_t cols, double value, std::int64_t gap = 0) {
  Fenced m(dtype, rows, cols, gap);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c) put(m, r, c, value);
  return m;
}

// Half a unit in the last place, relative to the value: what rounding once costs at most.
constexpr double half_ulp(DType dtype) { return dtype == DType::bf16 ? 0x1p-8 / (1 + 0x1p-8) : dtype == DType::f32 ? 0x1p-24 : 0x1p-53; }

// The measure of difference of two matrices: ‖got − want‖ / ‖want‖ (Frobenius), in double; NaN anywhere gives infinity.
inline double difference(ConstMat got, ConstMat want) {
  double error = 0, norm = 0;
  for (std::int64_t r = 0; r < want.rows; ++r)
    for (std::int64_t c = 0; c < want.cols; ++c) {
      const double w = get(want, r, c), e = get(got, r, c) - w;
      error += e * e;
      norm += w * w;
    }
  if (error == 0) return 0;
  return std::isnan(error) || norm == 0 ? INFINITY : std::sqrt(error / norm);
}

// Every element: |got − want| ≤ absolute + relative · |want|.
struct Tolerance {
  double absolute = 0, relative = 0;
};
inline testing::AssertionResult close(ConstMat got, ConstMat want, Tolerance tolerance) {
  if (got.rows != want.rows || got.cols != want.cols) return testing::AssertionFailure() << "shapes differ";
  double worst = 1;
  std::int64_t bad = 0, row = 0, col = 0;
  for (std::int64_t r = 0; r < want.rows; ++r)
    for (std::int64_t c = 0; c < want.cols; ++c) {
      const double g = get(got, r, c), w = get(want, r, c);
      const double share = g == w ? 0 : std::abs(g - w) / (tolerance.absolute + tolerance.relative * std::abs(w));
      if (share <= 1) continue;
      if (bad++ == 0 || share > worst) worst = share, row = r, col = c;
    }
  if (bad == 0) return testing::AssertionSuccess();
  return testing::AssertionFailure() << bad << " of " << want.size() << " elements beyond tolerance; the worst, [" << row << ", " << col
                                     << "], is " << get(got, row, col) << " for " << get(want, row, col) << ", " << worst
                                     << " times the tolerance; difference " << difference(got, want);
}

// Bit for bit; names the first bad coordinate.
inline testing::AssertionResult same_bits(ConstMat got, ConstMat want) {
  if (got.rows != want.rows || got.cols != want.cols || got.dtype != want.dtype)
    return testing::AssertionFailure() << "shapes or types differ";
  const auto size = static_cast<std::size_t>(core::size_of(want.dtype));
  for (std::int64_t r = 0; r < want.rows; ++r)
    for (std::int64_t c = 0; c < want.cols; ++c)
      if (std::memcmp(got.at(r, c), want.at(r, c), size) != 0)
        return testing::AssertionFailure() << "first at [" << r << ", " << c << "]: " << fmt::format("{:.17g}", get(got, r, c)) << " for "
                                           << fmt::format("{:.17g}", get(want, r, c));
  return testing::AssertionSuccess();
}

// Every table that this machine runs, but for the reference.
inline std::vector<std::string_view> fast_tables() {
  std::vector<std::string_view> names = runnable();
  names.erase(names.begin());
  return names;
}

// A table with a team and scratch memory of its own.
class Machine {
 public:
  Machine(std::string_view isa, int threads)
      : team_(threads), scratch_("scratch", scratch_bytes(threads)), context_{by_name(isa), team_, scratch_} {}
  Machine(const Machine&) = delete;
  const Context& context() const { return context_; }
  const Table& kernels() const { return context_.kernels; }

 private:
  Team team_;
  Arena scratch_;
  Context context_;
};

}  // namespace finback::kernels::test
