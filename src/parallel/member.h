// A rank's place in a training over many ranks: what it holds, and the groups with which it exchanges what.
#pragma once

#include "comm/communicator.h"
#include "parallel/part.h"
#include "parallel/shards.h"

namespace finback::parallel {

class Member {
 public:
  // All ranks of `world` call it. Throws Error(usage) as Mesh does.
  Member(comm::Communicator& world, const model::ParameterList& all, const Layout& layout, ScheduleKind kind, Stages stages);

  comm::Communicator& world() const { return world_; }
  const Mesh& mesh() const { return mesh_; }
  Coordinates at() const { return mesh_.at(world_.rank()); }
  ScheduleKind schedule() const { return kind_; }
  const Stages& stages() const { return stages_; }
  const Part& part() const { return part_; }
  // The ranks that exchange tokens with this one.
  comm::Communicator& expert_group() { return expert_group_; }

  // ---- ZeRO-1: the rank's share of what it holds.
  std::int64_t first_row(std::size_t slab) const { return shards_.begin(slab, places_[slab]); }
  model::ParameterList owned() const { return shards_.owned(part_.list, places_); }

  // The rank's own rows become the sum over the ranks that hold the slab, in rank order; other rows keep what they hold. FP32.
  void sum_gradients(const model::SlabBuffers& gradients);
  // The rows of the compute copy go from each slab's owners to all that hold it.
  void gather_weights(const model::SlabBuffers& weights);
  // Rank 0's `whole`, of the whole model, receives the shares of all ranks; elsewhere it is null.
  void collect(const model::SlabBuffers& share, const model::SlabBuffers* whole);

 private:
  comm::Communicator split(const std::vector<int>& group);
  comm::Communicator& holders(const model::Slab& slab);

  comm::Communicator& world_;
  const model::ParameterList& all_;
  const Mesh mesh_;
  const ScheduleKind kind_;
  const Stages stages_;
  const Part part_;
  const Shards shards_;
  const std::vector<int> places_;
  comm::Communicator dense_, experts_, embedding_, expert_group_;
};

}  // namespace finback::parallel
