// Linear layers, dense and grouped: the three products of kernels.h on what a layer holds, numbers or FP8 codes.
//
// Where the weights are codes [V3 §3.3], an input is quantised once, in tiles along its row, and every product that reads it takes
// these codes: forward as they are, backward_weight in tiles along the column, made anew from them. A gradient is quantised from the
// numbers for either product, unless it comes as codes from a dispatch.
#pragma once

#include "model/run.h"

#include <array>

namespace finback::model {

// The input of linear layers, from forward to backward_weight. Either half may be null.
struct LinearInput {
  core::Mat plain;              // storage type
  kernels::ScaledBuffer codes;  // 1×128 tiles, in FP8 runs
  bool power_of_two = false;    // scales
};

// What a product reads.
struct Operand {
  kernels::ScaledMat x;  // without scales: numbers
  bool power_of_two = false;
  Operand(core::ConstMat plain) : x{plain, {}} {}
  Operand(core::Mat plain) : x{plain, {}} {}
  Operand(kernels::ScaledMat codes, bool power_of_two_scales) : x(codes), power_of_two(power_of_two_scales) {}
  Operand(const LinearInput& in) : Operand(in.codes.codes ? Operand(in.codes, in.power_of_two) : Operand(in.plain)) {}
};

// [rows, cols] of each, null where the precision has no use for it.
LinearInput take_input(core::Arena& plain, core::Arena& codes, const Precision& precision, std::int64_t rows, std::int64_t cols,
                       bool power_of_two = false);
kernels::ScaledBuffer take_codes(core::Arena& arena, core::DType format, std::int64_t rows, std::int64_t cols);  // 1×128 tiles

// codes from plain; nothing where there are no codes. Tiles with a number that is NaN or infinite are counted in the run.
void quantise(const Run& run, const LinearInput& x);
using kernels::Offsets;

// A gradient, in the format and tiles of the run; blocks restart at every offset.
void quantise_gradient(const Run& run, core::ConstMat dy_SN, Offsets offsets, bool power_of_two, const kernels::ScaledBuffer& out);

// y = [addend +] x · wᵀ
void linear_forward(const Run& run, const Operand& x, int slab, Offsets offsets, core::ConstMat addend, core::Mat y);
// dx = [addend +] dy · w
void linear_backward_input(const Run& run, const Operand& dy, int slab, Offsets offsets, core::ConstMat addend, core::Mat dx);
// dw += dyᵀ · x
void linear_backward_weight(const Run& run, const Operand& dy, const Operand& x, int slab, Offsets offsets);

// Dense: one group.
inline std::array<std::int64_t, 2> all_rows(const Operand& x) { return {0, x.x.codes.rows}; }
inline void linear_forward(const Run& run, const Operand& x, int slab, core::ConstMat addend, core::Mat y) {
  linear_forward(run, x, slab, all_rows(x), addend, y);
}
inline void linear_backward_input(const Run& run, const Operand& dy, int slab, core::ConstMat addend, core::Mat dx) {
  linear_backward_input(run, dy, slab, all_rows(dy), addend, dx);
}
inline void linear_backward_weight(const Run& run, const Operand& dy, const Operand& x, int slab) {
  linear_backward_weight(run, dy, x, slab, all_rows(dy));
}

// Bytes of Run::tiles that the products of a model need: the codes of one gradient, or those of the two sides of one weight gradient.
std::int64_t tile_bytes(const ModelConfig& config, const Precision& precision, std::int64_t tokens);

}  // namespace finback::model
