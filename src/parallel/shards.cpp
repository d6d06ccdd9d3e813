#include "parallel/shards.h"

#include "core/error.h"

#include <algorithm>

namespace finback::parallel {

Shards::Shards(const model::ParameterList& list, int ranks) : ranks_(ranks) {
  FB_CHECK(ranks >= 1, "{} ranks", ranks);
  // Where a slab may be cut: the block rows of its tensors.
  std::vector<std::vector<std::int64_t>> blocks(list.slabs.size());
  for (const model::Parameter& p : list.parameters)
    for (std::int64_t row = 0; row < p.rows; row += kBlockRows) blocks[static_cast<std::size_t>(p.slab)].push_back(p.row + row);
  for (std::size_t s = 0; s < list.slabs.size(); ++s) {
    const model::Slab& slab = list.slabs[s];
    const std::int64_t rows = slab.groups * slab.rows;
    rows_.push_back(rows);
    cuts_.emplace_back();
    if (!slab.trained) continue;
    blocks[s].push_back(rows);
    std::sort(blocks[s].begin(), blocks[s].end());
    for (int r = 0; r <= ranks; ++r) cuts_[s].push_back(*std::lower_bound(blocks[s].begin(), blocks[s].end(), rows * r / ranks));
  }
}

model::ParameterList Shards::owned(const model::ParameterList& list, int rank) const {
  model::ParameterList share;
  share.slabs = list.slabs;
  for (std::size_t s = 0; s < list.slabs.size(); ++s) {
    if (!split(s)) continue;
    share.slabs[s].groups = 1;
    share.slabs[s].rows = end(s, rank) - begin(s, rank);
  }
  for (const model::Parameter& p : list.parameters) {
    const auto s = static_cast<std::size_t>(p.slab);
    const std::int64_t first = std::max(p.row, begin(s, rank)), last = std::min(p.row + p.rows, end(s, rank));
    if (first >= last) continue;
    model::Parameter& piece = share.parameters.emplace_back(p);
    piece.row = first - begin(s, rank);
    piece.rows = last - first;
    piece.first_row = p.first_row + first - p.row;
  }
  return share;
}

}  // namespace finback::parallel
