#include "studies/fp8/accumulation.h"

#include "core/error.h"
#include "core/rng.h"
#include "kernels/kernels.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace finback::studies {
namespace {

using kernels::Context;
using kernels::DType;
using kernels::Mat;
using kernels::tiles_of;

double draw(const core::Rng& rng, std::uint64_t at, Distribution d) {
  switch (d) {
    case Distribution::normal:
      return rng.normal(at);
    case Distribution::uniform:
      return 2 * rng.uniform(at) - 1;
    case Distribution::positive_normal:
      return std::abs(rng.normal(at));
    case Distribution::positive_uniform:
      return rng.uniform(at);
  }
  return 0;
}

Mat draw_matrix(core::Arena& arena, std::int64_t rows, std::int64_t k, Distribution d, std::uint32_t substream) {
  const core::Rng rng(1, core::Stream::test, substream);
  const Mat x = arena.take_mat(DType::f32, rows, k);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < k; ++c) x.row<float>(r)[c] = static_cast<float>(draw(rng, static_cast<std::uint64_t>(r * k + c), d));
  return x;
}

}  // namespace

std::string_view name_of(Distribution d) {
  switch (d) {
    case Distribution::normal:
      return "normal";
    case Distribution::uniform:
      return "uniform in −1 … 1";
    case Distribution::positive_normal:
      return "normal, magnitudes";
    case Distribution::positive_uniform:
      return "uniform in 0 … 1";
  }
  return "";
}

AccumulationError accumulation_error(Distribution distribution, std::int64_t rows, std::int64_t k, int bits, bool promote) {
  core::Team team(1);
  core::Arena scratch("scratch", kernels::scratch_bytes(1)), arena("matrices", rows * k * 16 + rows * rows * 16 + (std::int64_t{1} << 20));
  const Context ctx{kernels::reference(), team, scratch};
  const auto quantized = [&](std::int64_t scale_rows) {
    return kernels::ScaledBuffer{arena.take_mat(DType::e4m3, rows, k), arena.take_mat(DType::f32, scale_rows, tiles_of(k))};
  };
  const kernels::ScaledBuffer x = quantized(rows), w = quantized(tiles_of(rows));
  const kernels::Quantization q{DType::e4m3, /*power_of_two=*/true};
  ctx.kernels.quantize_rows(ctx, draw_matrix(arena, rows, k, distribution, 0), q, x);
  ctx.kernels.quantize_blocks(ctx, draw_matrix(arena, rows, k, distribution, 1), /*groups=*/1, {}, q, w);
  const kernels::WeightView weights{w.codes.data, DType::e4m3, 1, rows, k, w.scales};
  const std::array<std::int64_t, 2> offsets = {0, rows};
  const Mat exact = arena.take_mat(DType::f64, rows, rows), narrow = arena.take_mat(DType::f64, rows, rows);
  ctx.kernels.scaled_forward(ctx, x, weights, offsets, {}, {}, exact);
  ctx.kernels.scaled_forward(ctx, x, weights, offsets, {}, {bits, promote}, narrow);

  const auto count = static_cast<double>(rows * rows);
  AccumulationError out{std::string(name_of(distribution)), rows, k, bits, promote};
  double largest_error = 0, largest = 0, magnitudes = 0, squares = 0, error_squares = 0;
  for (std::int64_t i = 0; i < rows * rows; ++i) {
    const double r = exact.row<double>(0)[i], e = narrow.row<double>(0)[i] - r, relative = std::abs(e / r);
    largest_error = std::max(largest_error, std::abs(e));
    largest = std::max(largest, std::abs(r));
    magnitudes += std::abs(r);
    squares += r * r;
    error_squares += e * e;
    out.bias += std::copysign(1, r) * e;
    out.mean_relative += relative / count;
    out.largest_relative = std::max(out.largest_relative, relative);
  }
  out.largest_to_largest = largest_error / largest;
  out.largest_to_rms = largest_error / std::sqrt(squares / count);
  out.rms_to_rms = std::sqrt(error_squares / squares);
  out.bias /= magnitudes;
  return out;
}

std::vector<AccumulationError> accumulation_study() {
  constexpr int kBits = 14;
  constexpr std::int64_t kRows = 64, kLongest = 4096;
  std::vector<AccumulationError> out;
  for (const Distribution d :
       {Distribution::normal, Distribution::uniform, Distribution::positive_normal, Distribution::positive_uniform}) {
    const bool drawn = d == Distribution::normal || d == Distribution::positive_normal;  // against K too
    for (std::int64_t k = drawn ? 128 : kLongest; k <= kLongest; k *= 2)
      for (const bool promote : {false, true}) out.push_back(accumulation_error(d, kRows, k, kBits, promote));
  }
  out.push_back(accumulation_error(Distribution::normal, 4 * kRows, kLongest, kBits, false));
  return out;
}

}  // namespace finback::studies
