#include "measure/layer.h"

#include "core/machine.h"
#include "measure/speed.h"

#include <algorithm>
#include <cstring>

namespace finback::measure {
namespace {

using core::Arena;
using core::DType;
using core::Mat;
using kernels::ScaledBuffer;

DType activations(const Gemm& s) { return s.dtype == DType::e4m3 ? DType::bf16 : s.dtype; }

std::vector<std::int64_t> offsets_of(const Gemm& s) {
  std::vector<std::int64_t> offsets{0};
  for (std::int64_t g = 0, sum = 0; g < s.groups; ++g) {
    // Shares 1, 3, 5 … of groups², in an order that puts small beside large.
    sum += s.uneven ? 2 * (g * 29 % s.groups) + 1 : s.groups;
    offsets.push_back(s.m * sum / (s.groups * s.groups));
  }
  offsets.back() = s.m;
  return offsets;
}

std::int64_t bytes_of_group(const kernels::Context& ctx, const Gemm& s) {
  if (s.pass == Pass::backward_weight) return 0;
  if (s.packed) return ctx.kernels.packed_bytes(ctx, {nullptr, s.dtype, 1, s.n, s.k});
  return s.n * s.k * core::size_of(s.dtype);
}

std::int64_t copies_of(const Gemm& s, std::int64_t group_bytes) {
  const std::int64_t bytes = s.groups * group_bytes;
  return s.cold && bytes > 0 ? std::max<std::int64_t>(1, beyond_caches() / bytes) : 1;
}

// Codes with scales of 1×128 tiles, or of 128×1 tiles that restart at the offsets.
ScaledBuffer rows_buffer(Arena& arena, std::int64_t rows, std::int64_t cols) {
  return {arena.take_mat(DType::e4m3, rows, cols), arena.take_mat(DType::f32, rows, kernels::tiles_of(cols))};
}
ScaledBuffer columns_buffer(Arena& arena, std::int64_t rows, std::int64_t cols, kernels::Offsets offsets) {
  return {arena.take_mat(DType::e4m3, rows, cols), arena.take_mat(DType::f32, kernels::row_tiles(offsets), cols)};
}
ScaledBuffer first_rows(const ScaledBuffer& b, std::int64_t rows, std::int64_t scale_rows) {
  return {b.codes.row_range(0, rows), b.scales.row_range(0, scale_rows)};
}

}  // namespace

Layer::Layer(const kernels::Table& kernels, core::Team& team, const Gemm& shape)
    : s_(shape),
      offsets_(offsets_of(s_)),
      dense_offsets_{0, std::max<std::int64_t>(1, s_.m / s_.groups)},
      scratch_("scratch", kernels::scratch_bytes(team.threads())),
      ctx_{kernels, team, scratch_},
      group_bytes_(bytes_of_group(ctx_, s_)),
      copies_(copies_of(s_, group_bytes_)),
      arena_("operands", planned()) {
  plan(arena_);
  for (const Mat& m : {in_, x_, out_})
    if (m) fill(m);
  if (weights_) make_weights();
  if (x_rows_.codes) kernels.quantize_rows(ctx_, x_, {}, x_rows_);
}

void Layer::plan(Arena& arena) {
  const bool codes = s_.dtype == DType::e4m3;
  in_ = arena.take_mat(activations(s_), s_.m, s_.pass == Pass::forward ? s_.k : s_.n);
  if (s_.pass == Pass::forward) out_ = arena.take_mat(DType::f32, s_.m, s_.n);
  if (s_.pass == Pass::backward_input) out_ = arena.take_mat(activations(s_), s_.m, s_.k);
  if (s_.pass == Pass::backward_weight) {
    x_ = arena.take_mat(activations(s_), s_.m, s_.k);
    out_ = arena.take_mat(DType::f32, s_.groups * s_.n, s_.k);
    if (codes) {
      in_codes_ = columns_buffer(arena, s_.m, s_.n, offsets_);
      x_rows_ = rows_buffer(arena, s_.m, s_.k);
      x_columns_ = columns_buffer(arena, s_.m, s_.k, offsets_);
    }
  } else {
    weights_ = arena.take_array<std::byte>(copies_ * s_.groups * group_bytes_);
    if (codes) {
      in_codes_ = rows_buffer(arena, in_.rows, in_.cols);
      scales_ = arena.take_mat(DType::f32, s_.groups * kernels::row_tiles(s_.n, {}), kernels::tiles_of(s_.k));
    }
  }
}

std::int64_t Layer::planned() {
  Arena count = Arena::counting();
  plan(count);
  core::require_memory(count.high_water() + s_.groups * s_.n * s_.k * core::size_of(DType::f32), "the operands");
  return count.high_water();
}

void Layer::make_weights() {
  const std::int64_t rows = s_.groups * s_.n, bytes = rows * s_.k * core::size_of(s_.dtype);
  Arena source("weights", rows * s_.k * 4 + 128);
  const Mat numbers = source.take_mat(activations(s_), rows, s_.k);
  fill(numbers);
  Mat w = numbers;
  if (s_.dtype == DType::e4m3) {
    w = source.take_mat(DType::e4m3, rows, s_.k);
    ctx_.kernels.quantize_blocks(ctx_, numbers, s_.groups, {}, {}, {w, scales_});
  }
  for (std::int64_t copy = 0; copy < copies_; ++copy) {
    std::byte* to = weights_ + copy * s_.groups * group_bytes_;
    if (s_.packed) ctx_.kernels.pack_weights(ctx_, {w.data, s_.dtype, s_.groups, s_.n, s_.k, scales_}, to);
    else std::memcpy(to, w.data, static_cast<std::size_t>(bytes));
  }
}

kernels::WeightView Layer::weights(const Part& part) const {
  kernels::WeightView view{weights_ + (part.copy * s_.groups + part.first_group) * group_bytes_, s_.dtype, part.groups, s_.n, s_.k};
  const std::int64_t tiles = kernels::row_tiles(s_.n, {});
  if (scales_) view.scales = scales_.row_range(part.first_group * tiles, part.groups * tiles);
  view.packed = s_.packed;
  return view;
}

void Layer::multiply(const Part& part) {
  const std::int64_t rows = part.offsets.back();
  const Mat in = in_.row_range(0, rows);
  const kernels::Table& t = ctx_.kernels;
  if (s_.pass == Pass::forward) t.linear_forward(ctx_, in, weights(part), part.offsets, {}, out_.row_range(0, rows));
  if (s_.pass == Pass::backward_input) t.linear_backward_input(ctx_, in, weights(part), part.offsets, {}, out_.row_range(0, rows));
  if (s_.pass == Pass::backward_weight)
    t.linear_backward_weight(ctx_, in, x_.row_range(0, rows), part.offsets, out_.row_range(part.first_group * s_.n, part.groups * s_.n));
}

void Layer::multiply_codes(const Part& part) {
  const std::int64_t rows = part.offsets.back();
  const Mat in = in_.row_range(0, rows);
  const kernels::Table& t = ctx_.kernels;
  if (s_.pass == Pass::backward_weight) {
    const std::int64_t tiles = kernels::row_tiles(part.offsets);
    const ScaledBuffer dy = first_rows(in_codes_, rows, tiles), x = first_rows(x_columns_, rows, tiles);
    t.quantize_columns(ctx_, {in, {}}, part.offsets, {}, dy);
    t.quantize_columns(ctx_, first_rows(x_rows_, rows, rows), part.offsets, {}, x);
    t.scaled_backward_weight(ctx_, dy, x, part.offsets, {}, out_.row_range(part.first_group * s_.n, part.groups * s_.n));
    return;
  }
  const ScaledBuffer codes = first_rows(in_codes_, rows, rows);
  t.quantize_rows(ctx_, in, {}, codes);
  const auto product = s_.pass == Pass::forward ? t.scaled_forward : t.scaled_backward_input;
  product(ctx_, codes, weights(part), part.offsets, {}, {}, out_.row_range(0, rows));
}

void Layer::call() {
  const Part all{offsets_, 0, s_.groups, turn_++ % copies_};
  s_.dtype == DType::e4m3 ? multiply_codes(all) : multiply(all);
}

void Layer::call_dense() {
  const Part one{dense_offsets_, turn_ % s_.groups, 1, turn_ / s_.groups % copies_};
  ++turn_;
  s_.dtype == DType::e4m3 ? multiply_codes(one) : multiply(one);
}

Traffic Layer::traffic() const {
  Traffic t{.read = in_.bytes() + x_.bytes()};
  if (weights_) t.read += s_.groups * s_.n * s_.k * core::size_of(s_.dtype) + scales_.bytes();
  (s_.pass == Pass::backward_weight ? t.updated : t.written) = out_.bytes();
  return t;
}

Traffic Layer::all_traffic() const {
  Traffic t = traffic();
  if (weights_) t.read += (copies_ - 1) * s_.groups * s_.n * s_.k * core::size_of(s_.dtype);
  return t;
}

}  // namespace finback::measure
