// The model cut into stages. A stage is a run of main blocks; the first has the embedding too, the last the final norm, the head and the
// MTP modules, which read the embedding and the head. A stage may be empty.
#pragma once

#include "model/params.h"

#include <cstdint>
#include <span>
#include <vector>

namespace finback::parallel {

// A row of pieces into `parts` runs of them, so that the costliest is as cheap as can be and, of those, the costs are the most even
// (least sum of squares). The first piece is in the first part and the last in the last; parts may be empty. At least two pieces,
// or one part. Returns the first piece of each part, and the number of pieces [parts + 1].
std::vector<int> cut_evenly(std::span<const double> cost, int parts);

struct Stages {
  std::vector<int> first_block;  // [stages + 1] stage s has the main blocks first_block[s] … first_block[s + 1] − 1

  int count() const { return static_cast<int>(first_block.size()) - 1; }
  int main_blocks() const { return first_block.back(); }
  int of(const model::Slab& slab) const;
};

// By the operations of a forward of seq_len tokens: weights that a token meets, and attention.
Stages cut_stages(const model::ModelConfig& config, std::int64_t seq_len, int stages);

// The part of the list that a rank holds: the slabs of its stages and, of each layer's experts, share ep_index of ep, consecutive
// experts in one smaller slab. Parameters keep their names and order; their slab and row are those within the part.
// ep divides the routed experts. Duplicates are left out.
model::ParameterList parameters_on(const model::ParameterList& all, const Stages& stages, std::span<const int> own_stages, int ep,
                                   int ep_index);

}  // namespace finback::parallel
