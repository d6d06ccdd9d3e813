// The operands of one linear layer, and its products as `bench gemm` calls them.
#pragma once

#include "core/arena.h"
#include "measure/ceiling.h"
#include "measure/gemm.h"

#include <cstddef>
#include <vector>

namespace finback::measure {

class Layer {
 public:
  // Throws Error(usage) when the operands are larger than the memory that is free.
  Layer(const kernels::Table& kernels, core::Team& team, const Gemm& shape);
  Layer(const Layer&) = delete;

  void call();        // the product, with the next copy of the weights
  void call_dense();  // the next of its groups by itself, with the mean number of rows
  std::int64_t dense_rows() const { return dense_offsets_.back(); }
  Traffic traffic() const;      // of one call
  Traffic all_traffic() const;  // of a call with every copy of the weights, one after the other
  std::int64_t copies() const { return copies_; }

 private:
  // A run of groups and a copy of their weights; the rows begin at row 0.
  struct Part {
    std::span<const std::int64_t> offsets;
    std::int64_t first_group, groups, copy;
  };
  void plan(core::Arena& arena);
  std::int64_t planned();
  void make_weights();
  kernels::WeightView weights(const Part& part) const;
  void multiply(const Part& part);
  void multiply_codes(const Part& part);

  Gemm s_;
  std::vector<std::int64_t> offsets_, dense_offsets_;
  core::Arena scratch_;
  kernels::Context ctx_;
  std::int64_t group_bytes_, copies_, turn_ = 0;         // bytes of a group's weights as they lie in memory
  core::Mat in_, x_, out_;                               // in_: x, or dy; x_: backward_weight's other operand
  kernels::ScaledBuffer in_codes_, x_rows_, x_columns_;  // e4m3: in_ as coded in a call; x as forward left it, and tiled anew
  std::byte* weights_ = nullptr;
  core::Mat scales_;
  core::Arena arena_;
};

}  // namespace finback::measure
