// The one list of parameters. A parameter is declared once, here, under its Hugging Face name; load, save, initialise,
// shard, optimise and plan all walk this list.
//
// Memory is organised in slabs: one matrix [groups · rows, cols] that the kernels take whole. Parameters that are read by one
// product lie in one slab under several names: q_a_proj above kv_a_proj_with_mqa, gate_proj above up_proj, and the experts of
// a layer one after the other.
#pragma once

#include "model/config.h"
#include "model/precision.h"

#include <cstdint>
#include <string>
#include <vector>

namespace finback::model {

enum class Role { embedding, head, norm, linear, gate, gate_bias, expert };

// How a parameter starts. normal: mean 0, std = initializer_range. ones: norms. zeros: the gate's bias.
enum class Init { normal, ones, zeros };

struct Slab {
  std::string name;  // of the first parameter in it
  Role role = Role::linear;
  std::int64_t groups = 1, rows = 0, cols = 0;  // [groups · rows, cols]; a vector is [1, n]
  std::int64_t layer = -1;                      // decoder block index, −1 for embedding, final norm, head
  bool weight_decay = false;
  bool trained = true;  // false for the gate's bias, which the recipe moves by itself
  // Of what FP8 layers hold as codes: rows of each tensor that is stacked in a group, since the scales' blocks restart with each.
  std::vector<std::int64_t> parts;
  bool fp8() const { return !parts.empty(); }
  std::int64_t size() const { return groups * rows * cols; }
};

struct Parameter {
  std::string name;                 // Hugging Face name
  std::vector<std::int64_t> shape;  // as in the checkpoint
  int slab = 0;
  std::int64_t row = 0, rows = 0, cols = 0;  // rows row … row+rows-1 of the slab
  std::int64_t first_row = 0;                // of the tensor, where this is a piece of one (parallel/shards.h)
  Init init = Init::normal;
  bool keep_f32 = false;  // stored as F32 in checkpoints whatever the rest (the gate's bias)
  bool fp8 = false;       // stored in E4M3 in FP8 folders: what linear layers and experts hold, MTP's eh_proj excepted
  std::int64_t size() const { return rows * cols; }
};

struct ParameterList {
  std::vector<Slab> slabs;
  std::vector<Parameter> parameters;  // in checkpoint order: embedding, layers, norm, head, MTP layers
  // Names that a published folder holds beside these and that are copies: MTP's embed_tokens and shared_head.head.
  struct Duplicate {
    std::string name, of;
  };
  std::vector<Duplicate> duplicates;

  std::int64_t total() const;  // elements of all parameters, duplicates not counted
};

ParameterList list_parameters(const ModelConfig& config);

// One matrix a slab, all in one arena. The compute copy, the master weights, the gradients and the moments each are one.
struct SlabBuffers {
  std::vector<core::Mat> slabs;
  std::vector<core::Mat> scales;                 // of a compute copy with codes: f32, a number a block; null for other slabs
  std::vector<std::vector<std::int64_t>> parts;  // Slab::parts, beside the scales
  std::vector<bool> packed;                      // slabs in the kernels' own order (pack_linear_weights); empty: none
  core::Mat of(const Parameter& p) const { return slabs[static_cast<std::size_t>(p.slab)].row_range(p.row, p.rows); }
};

// Slabs of dtype `dtype` (f64, f32, bf16); slabs of Role::gate_bias are f32 at least. `trained_only` leaves the others null.
SlabBuffers take_slabs(core::Arena& arena, const ParameterList& list, core::DType dtype, bool trained_only = false);

// The compute copy: slabs of the storage type or, where layers are FP8, e4m3 codes with the scales of their blocks.
SlabBuffers take_weights(core::Arena& arena, const ParameterList& list, const Precision& precision);
// Some rows of a slab of the compute copy.
struct WeightRows {
  core::Mat numbers, scales;        // scales: of codes, a row a block of 128
  std::vector<std::int64_t> parts;  // of codes: rows of each tensor among them
};
// Rows begin … end−1, which of codes begin and end with blocks.
WeightRows weight_rows(const SlabBuffers& weights, std::size_t slab, std::int64_t begin, std::int64_t end);
// rows = round(master). Returns how many blocks held a NaN or an infinity.
std::int64_t round_weights(const kernels::Context& ctx, core::ConstMat master, const Precision& precision, const WeightRows& rows);

// Weights that only forward passes will read, put into the order in which ctx.kernels reads them, each in the place it has: a
// slab whose rows are no multiple of the kernels' panels stays as it is. Groups pass one by one through ctx.scratch, which
// holds packing_bytes(list, dtype). Changes no bit of a result.
std::int64_t packing_bytes(const ParameterList& list, core::DType dtype);
void pack_linear_weights(const kernels::Context& ctx, const ParameterList& list, SlabBuffers& weights);

// Initial values, a pure function of (seed, parameter name, element): the same whatever the layout or the order. Element `first` of
// the parameter and those after it, as many as `out` (f32 or f64, contiguous) holds.
void initial_values(const ModelConfig& config, const Parameter& p, std::uint64_t seed, std::int64_t first, const core::Mat& out);
// … of every parameter, into masters.
void initialise(const ModelConfig& config, const ParameterList& list, std::uint64_t seed, core::Team& team, const SlabBuffers& master);

}  // namespace finback::model
