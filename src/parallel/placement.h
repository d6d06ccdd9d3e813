// Where the experts of a layer stand, with the busy ones repeated: the published balancer (deepseek-ai/EPLB) as a pure function of
// measured loads. Hierarchical: groups of experts are packed onto nodes, so that group-limited routing stays within one; experts are
// repeated within their node; the replicas are packed onto its ranks. Global: the same as if all were one group on one node.
#pragma once

#include <span>
#include <vector>

namespace finback::parallel {

struct PlacementShape {
  int slots = 0;   // replicas of experts, over all ranks
  int groups = 1;  // of experts (n_group), consecutive and of one size
  int nodes = 1;
  int ranks = 1;  // over all nodes; each has slots ÷ ranks slots
};

struct Placement {
  std::vector<int> expert_of_slot;                // [slots]; rank r has those from r · slots ÷ ranks on
  std::vector<std::vector<int>> slots_of_expert;  // [experts] at least one, rising: an expert's tokens are shared evenly among them
};

// load [experts]: tokens that each expert got, or any measure of it. Hierarchical where nodes divide groups, else global.
// Each further replica goes to the expert with the most load a replica, so that the busiest replica is as idle as can be. Packing takes
// the heaviest first and gives it to the lightest pack with room. Of equals the one of the lower number comes first.
// Throws Error(usage) unless ranks divide slots, nodes divide ranks, groups divide experts, there are as many slots as experts and no
// load is negative or not finite.
Placement place_experts(std::span<const double> load, const PlacementShape& shape);

}  // namespace finback::parallel
