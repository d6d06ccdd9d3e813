// What data-parallel ranks tell each other in a step under ZeRO-1 (shards.h): gradients become sums over ranks in rank order, each share at
// its owner; new weights go from their owner to all.
#pragma once

#include "comm/communicator.h"
#include "parallel/shards.h"

namespace finback::parallel {

class Zero {
 public:
  // Of the ranks of the communicator, all of which hold the parameters of `list`.
  Zero(comm::Communicator& ranks, const model::ParameterList& list);

  comm::Communicator& ranks() const { return ranks_; }
  const Shards& shards() const { return shards_; }

  // The rank's own rows become the sum over ranks; other rows keep what they hold. FP32.
  void sum_gradients(const model::SlabBuffers& gradients);
  // Every rank's rows of the compute copy go to all.
  void gather_weights(const model::SlabBuffers& weights);
  // Rank 0's `whole` receives the rows of all ranks; elsewhere it is null. The same slabs are held by every rank.
  void collect(const model::SlabBuffers& share, const model::SlabBuffers* whole);

 private:
  comm::Communicator& ranks_;
  Shards shards_;
};

}  // namespace finback::parallel
