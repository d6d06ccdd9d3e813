// ZeRO-1 (Rajbhandari et al., arXiv 1910.02054, §5.1): the master weights and moments of each rank are a share of the rows of every slab.
// A share begins at a block row of a tensor (128 rows: a row of FP8 blocks, and of the chunks over which the gradient norm is summed), so
// that what a rank makes of its share is what one process would make there.
#pragma once

#include "model/params.h"

#include <cstdint>
#include <span>
#include <vector>

namespace finback::parallel {

constexpr std::int64_t kBlockRows = 128;

class Shards {
 public:
  // replicas [slabs]: of the ranks that hold a slab. Shares are as even as block rows allow; what is not trained (a gate's bias) belongs to
  // every one of them.
  Shards(const model::ParameterList& list, std::span<const int> replicas);

  // The r-th of them has rows begin(slab, r) … end(slab, r) − 1.
  std::int64_t begin(std::size_t slab, int r) const { return split(slab) ? cuts_[slab][static_cast<std::size_t>(r)] : 0; }
  std::int64_t end(std::size_t slab, int r) const { return split(slab) ? cuts_[slab][static_cast<std::size_t>(r) + 1] : rows_[slab]; }
  bool split(std::size_t slab) const { return !cuts_[slab].empty(); }

  // The share of the rank that is the places[slab]-th as a list: its slabs hold those rows, its parameters the pieces of tensors that lie
  // there.
  model::ParameterList owned(const model::ParameterList& list, std::span<const int> places) const;

 private:
  std::vector<std::int64_t> rows_;               // [slabs]
  std::vector<std::vector<std::int64_t>> cuts_;  // [slabs][replicas + 1]; empty: not split
};

}  // namespace finback::parallel
