// What one rank holds of the model, and which ranks hold the same: those sum its gradients, in rank order, and share its masters.
#pragma once

#include "parallel/mesh.h"
#include "parallel/schedule.h"
#include "parallel/stages.h"

#include <vector>

namespace finback::parallel {

struct Part {
  std::vector<int> stages;  // rising
  model::ParameterList list;
  // The ranks that hold a slab, rising, the rank itself among them:
  std::vector<int> dense;      // all but the following. DP ranks of a stage; in DualPipe those of either direction
  std::vector<int> experts;    // of the same expert index
  std::vector<int> embedding;  // also those whose MTP modules read it

  const std::vector<int>& holders(const model::Slab& slab) const {
    return slab.role == model::Role::expert ? experts : slab.role == model::Role::embedding ? embedding : dense;
  }
  // [slabs of the list] how many hold it.
  std::vector<int> replicas() const;
  // [slabs] which of them `rank` is.
  std::vector<int> places(int rank) const;
};

// `all`: the whole model. EP divides its experts.
Part part_of(const model::ParameterList& all, const Mesh& mesh, ScheduleKind kind, const Stages& stages, int rank);

}  // namespace finback::parallel
