#include "parallel/part.h"

#include "core/error.h"

#include <algorithm>

namespace finback::parallel {

using model::Role;
using model::Slab;

std::vector<int> Part::replicas() const {
  std::vector<int> counts;
  for (const Slab& s : list.slabs) counts.push_back(static_cast<int>(holders(s).size()));
  return counts;
}

std::vector<int> Part::places(int rank) const {
  std::vector<int> places;
  for (const Slab& s : list.slabs) {
    const auto& ranks = holders(s);
    places.push_back(static_cast<int>(std::lower_bound(ranks.begin(), ranks.end(), rank) - ranks.begin()));
  }
  return places;
}

namespace {

bool holds(ScheduleKind kind, int pp, int place, int stage) {
  const auto own = stages_on(kind, pp, place);
  return std::find(own.begin(), own.end(), stage) != own.end();
}

// The embedding, before all else, where it is not the rank's anyway.
void add_embedding(const model::ParameterList& all, model::ParameterList& part) {
  FB_CHECK(all.slabs.front().role == Role::embedding && all.parameters.front().slab == 0, "the embedding stands first");
  if (part.slabs.empty() || part.slabs.front().role == Role::embedding) return;
  part.slabs.insert(part.slabs.begin(), all.slabs.front());
  for (model::Parameter& p : part.parameters) ++p.slab;
  part.parameters.insert(part.parameters.begin(), all.parameters.front());
}

}  // namespace

Part part_of(const model::ParameterList& all, const Mesh& mesh, ScheduleKind kind, const Stages& stages, int rank) {
  const Layout& layout = mesh.layout();
  const Coordinates at = mesh.at(rank);
  const int last = stages.count() - 1;
  const bool mtp = std::any_of(all.slabs.begin(), all.slabs.end(), [&](const Slab& s) { return s.layer >= stages.main_blocks(); });

  Part part{.stages = stages_on(kind, layout.pp, at.pp), .list = {}, .dense = {}, .experts = {}, .embedding = {}};
  part.list = parameters_on(all, stages, part.stages, layout.ep, at.ep);
  const auto has = [&](int place, int stage) { return holds(kind, layout.pp, place, stage); };
  if (mtp && has(at.pp, last)) add_embedding(all, part.list);
  for (int place = 0; place < layout.pp; ++place)
    for (int d = 0; d < layout.dp; ++d) {
      const int r = mesh.rank_at(place, d);
      // A place that has one of a rank's stages has all of them.
      if (has(place, part.stages.front())) {
        part.dense.push_back(r);
        if (mesh.at(r).ep == at.ep) part.experts.push_back(r);
      }
      if (has(place, 0) || (mtp && has(place, last))) part.embedding.push_back(r);
    }
  return part;
}

}  // namespace finback::parallel
