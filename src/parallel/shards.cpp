#include "parallel/shards.h"

#include "core/error.h"

#include <algorithm>

namespace finback::parallel {

Shards::Shards(const model::ParameterList& list, std::span<const int> replicas) {
  FB_CHECK(replicas.size() == list.slabs.size(), "{} slabs, {}", list.slabs.size(), replicas.size());
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
    const int ranks = replicas[s];
    for (int r = 0; r <= ranks; ++r) cuts_[s].push_back(*std::lower_bound(blocks[s].begin(), blocks[s].end(), rows * r / ranks));
  }
}

model::ParameterList Shards::owned(const model::ParameterList& list, std::span<const int> places) const {
  model::ParameterList share;
  share.slabs = list.slabs;
  for (std::size_t s = 0; s < list.slabs.size(); ++s) {
    if (!split(s)) continue;
    share.slabs[s].groups = 1;
    share.slabs[s].rows = end(s, places[s]) - begin(s, places[s]);
  }
  for (const model::Parameter& p : list.parameters) {
    const auto s = static_cast<std::size_t>(p.slab);
    const std::int64_t from = begin(s, places[s]), first = std::max(p.row, from), last = std::min(p.row + p.rows, end(s, places[s]));
    if (first >= last) continue;
    model::Parameter& piece = share.parameters.emplace_back(p);
    piece.row = first - from;
    piece.rows = last - first;
    piece.first_row = p.first_row + first - p.row;
  }
  return share;
}

}  // namespace finback::parallel
