#include "model/linear.h"

#include <algorithm>
#include <cstring>

namespace finback::model {
namespace {

using core::Arena;
using core::ArenaScope;
using core::ConstMat;
using core::DType;
using core::Mat;
using kernels::Quantization;
using kernels::ScaledBuffer;
using kernels::ScaledMat;
using kernels::tiles_of;

Quantization of_input(const Run& run, bool power_of_two) { return {DType::e4m3, power_of_two || run.fp8().power_of_two_scales}; }
Quantization of_gradient(const Run& run, bool power_of_two) {
  return {run.fp8().gradient_format, power_of_two || run.fp8().power_of_two_scales};
}

bool on_codes(const kernels::WeightView& w) { return w.dtype == DType::e4m3; }

// 128×1 tiles.
ScaledBuffer take_columns(Arena& arena, DType format, Offsets offsets, std::int64_t rows, std::int64_t cols) {
  return {arena.take_mat(format, rows, cols), arena.take_mat(DType::f32, kernels::row_tiles(offsets), cols)};
}

// dy's codes in 128×128 blocks that restart at every offset, and one scale a block.
ScaledBuffer gradient_blocks(const Run& run, ConstMat dy, Offsets offsets, bool power_of_two, Mat codes) {
  std::span<std::int64_t> rows(run.tiles->take_array<std::int64_t>(std::ssize(offsets) - 1), offsets.size() - 1);
  for (std::size_t g = 0; g < rows.size(); ++g) rows[g] = offsets[g + 1] - offsets[g];
  const ScaledBuffer blocks{codes, run.tiles->take_mat(DType::f32, kernels::row_tiles(offsets), tiles_of(dy.cols))};
  run.count_nonfinite(run.k().quantize_blocks(run.ctx, dy, 1, rows, of_gradient(run, power_of_two), blocks));
  return blocks;
}

// The scales of blocks, repeated for each of their rows, or for each of their columns.
void spread_to_rows(ConstMat blocks, Offsets offsets, Mat scales) {
  std::int64_t tile = 0;
  for (std::size_t g = 0; g + 1 < offsets.size(); ++g)
    for (std::int64_t r = offsets[g]; r < offsets[g + 1]; r += kernels::kTile, ++tile)
      for (std::int64_t i = r; i < std::min(r + kernels::kTile, offsets[g + 1]); ++i)
        std::memcpy(scales.row<float>(i), blocks.row<float>(tile), static_cast<std::size_t>(blocks.cols) * sizeof(float));
}
void spread_to_columns(ConstMat blocks, Mat scales) {
  for (std::int64_t tile = 0; tile < scales.rows; ++tile)
    for (std::int64_t c = 0; c < scales.cols; ++c) scales.row<float>(tile)[c] = blocks.row<float>(tile)[c / kernels::kTile];
}

// A gradient in tiles along its columns: codes from a dispatch are tiled anew; numbers are quantised as the run says.
ScaledMat gradient_columns(const Run& run, const Operand& dy, Offsets offsets) {
  const std::int64_t rows = dy.x.codes.rows, cols = dy.x.codes.cols;
  const ScaledBuffer out = take_columns(*run.tiles, run.fp8().gradient_format, offsets, rows, cols);
  if (run.fp8().gradient_blocks && !dy.x.scales)
    spread_to_columns(gradient_blocks(run, dy.x.codes, offsets, dy.power_of_two, out.codes).scales, out.scales);
  else run.count_nonfinite(run.k().quantize_columns(run.ctx, dy.x, offsets, of_gradient(run, dy.power_of_two), out));
  return out;
}

}  // namespace

ScaledBuffer take_codes(Arena& arena, DType format, std::int64_t rows, std::int64_t cols) {
  return {arena.take_mat(format, rows, cols), arena.take_mat(DType::f32, rows, tiles_of(cols))};
}

LinearInput take_input(Arena& plain, Arena& codes, const Precision& precision, std::int64_t rows, std::int64_t cols, bool power_of_two) {
  LinearInput x{plain.take_mat(precision.storage, rows, cols), {}, power_of_two};
  if (precision.fp8) x.codes = take_codes(codes, DType::e4m3, rows, cols);
  return x;
}

void quantise(const Run& run, const LinearInput& x) {
  if (x.codes.codes) run.count_nonfinite(run.k().quantize_rows(run.ctx, x.plain, of_input(run, x.power_of_two), x.codes));
}

void quantise_gradient(const Run& run, ConstMat dy, Offsets offsets, bool power_of_two, const ScaledBuffer& out) {
  if (!run.fp8().gradient_blocks) return run.count_nonfinite(run.k().quantize_rows(run.ctx, dy, of_gradient(run, power_of_two), out));
  const ArenaScope scope(*run.tiles);
  spread_to_rows(gradient_blocks(run, dy, offsets, power_of_two, out.codes).scales, offsets, out.scales);
}

void linear_forward(const Run& run, const Operand& x, int slab, Offsets offsets, ConstMat addend, Mat y) {
  const kernels::WeightView w = run.linear(slab, std::ssize(offsets) - 1);
  if (on_codes(w)) run.k().scaled_forward(run.ctx, x.x, w, offsets, addend, run.fp8().accumulation, y);
  else run.k().linear_forward(run.ctx, x.x.codes, w, offsets, addend, y);
}

void linear_backward_input(const Run& run, const Operand& dy, int slab, Offsets offsets, ConstMat addend, Mat dx) {
  const kernels::WeightView w = run.linear(slab, std::ssize(offsets) - 1);
  if (!on_codes(w)) return run.k().linear_backward_input(run.ctx, dy.x.codes, w, offsets, addend, dx);
  const ArenaScope scope(*run.tiles);
  ScaledMat codes = dy.x;
  if (!codes.scales) {
    const ScaledBuffer made = take_codes(*run.tiles, run.fp8().gradient_format, dy.x.codes.rows, dy.x.codes.cols);
    quantise_gradient(run, dy.x.codes, offsets, dy.power_of_two, made);
    codes = made;
  }
  run.k().scaled_backward_input(run.ctx, codes, w, offsets, addend, run.fp8().accumulation, dx);
}

void linear_backward_weight(const Run& run, const Operand& dy, const Operand& x, int slab, Offsets offsets) {
  if (!on_codes(run.linear(slab))) return run.k().linear_backward_weight(run.ctx, dy.x.codes, x.x.codes, offsets, run.gradient(slab));
  const ArenaScope scope(*run.tiles);
  const ScaledMat dy_columns = gradient_columns(run, dy, offsets);
  const ScaledBuffer x_columns = take_columns(*run.tiles, DType::e4m3, offsets, x.x.codes.rows, x.x.codes.cols);
  run.count_nonfinite(run.k().quantize_columns(run.ctx, x.x, offsets, of_input(run, x.power_of_two), x_columns));
  run.k().scaled_backward_weight(run.ctx, dy_columns, x_columns, offsets, run.fp8().accumulation, run.gradient(slab));
}

std::int64_t tile_bytes(const ModelConfig& config, const Precision& precision, std::int64_t tokens) {
  if (!precision.fp8) return 0;
  constexpr std::int64_t kAlignment = 8 * 64;  // of the few pieces
  std::int64_t most = 0;
  for (const Slab& s : list_parameters(config).slabs) {
    if (!s.fp8()) continue;
    const std::int64_t rows = s.role == Role::expert ? tokens * config.num_experts_per_tok : tokens;
    const std::int64_t tiles = rows / kernels::kTile + s.groups;  // along the columns, at most
    const auto columns = [&](std::int64_t n) { return rows * n + tiles * n * 4; };
    const std::int64_t blocks = s.groups * 8 + tiles * tiles_of(s.rows) * 4;
    most = std::max({most, rows * (s.rows + 4 * tiles_of(s.rows)) + blocks, columns(s.rows) + columns(s.cols) + blocks});
  }
  return most + kAlignment;
}

}  // namespace finback::model
