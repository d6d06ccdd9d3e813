// ZeRO-1 (Rajbhandari et al., arXiv 1910.02054, §5.1): the master weights and moments of each rank are a share of the rows of every slab.
// A share begins at a block row of a tensor (128 rows: a row of FP8 blocks, and of the chunks over which the gradient norm is summed), so
// that what a rank makes of its share is what one process would make there.
#pragma once

#include "model/params.h"

#include <cstdint>
#include <vector>

namespace finback::parallel {

constexpr std::int64_t kBlockRows = 128;

class Shards {
 public:
  // Of the ranks that hold the same parameters. As even as block rows allow, slab by slab; what is not trained (a gate's bias) belongs to
  // every rank.
  Shards(const model::ParameterList& list, int ranks);

  int ranks() const { return ranks_; }
  // Rank r holds rows begin(slab, r) … end(slab, r) − 1.
  std::int64_t begin(std::size_t slab, int rank) const { return split(slab) ? cuts_[slab][static_cast<std::size_t>(rank)] : 0; }
  std::int64_t end(std::size_t slab, int rank) const { return split(slab) ? cuts_[slab][static_cast<std::size_t>(rank) + 1] : rows_[slab]; }
  bool split(std::size_t slab) const { return !cuts_[slab].empty(); }

  // The share of a rank as a list: its slabs hold the rank's rows, its parameters the pieces of tensors that lie there.
  model::ParameterList owned(const model::ParameterList& list, int rank) const;

 private:
  int ranks_;
  std::vector<std::int64_t> rows_;               // [slabs]
  std::vector<std::vector<std::int64_t>> cuts_;  // [slabs][ranks + 1]; empty: not split
};

}  // namespace finback::parallel
