#include "parallel/bytes.h"

#include "core/arena.h"
#include "core/error.h"
#include "parallel/part.h"
#include "parallel/shards.h"

#include <algorithm>

namespace finback::parallel {
namespace {

using model::ParameterList;
using model::Slab;

std::int64_t weight_bytes(const Part& part, const model::Precision& precision) {
  ParameterList copied;
  for (const Slab& s : part.list.slabs)
    if (precision.storage != precision.accumulator || part.holders(s).size() > 1) copied.slabs.push_back(s);
  core::Arena count = core::Arena::counting();
  model::take_weights(count, copied, precision);
  return count.high_water();
}

std::int64_t gradient_bytes(const ParameterList& part, const model::Precision& precision) {
  core::Arena count = core::Arena::counting();
  model::take_slabs(count, part, precision.accumulator, /*trained_only=*/true);
  return count.high_water();
}

// A rank's shares of what it holds. `whole` adds what no optimiser moves, of which every rank needs all.
std::int64_t share_bytes(const Part& part, int rank, core::DType type, bool whole) {
  const Shards shards(part.list, part.replicas());
  const std::vector<int> places = part.places(rank);
  core::Arena count = core::Arena::counting();
  for (std::size_t s = 0; s < part.list.slabs.size(); ++s) {
    const Slab& slab = part.list.slabs[s];
    if (slab.trained || whole) count.take((shards.end(s, places[s]) - shards.begin(s, places[s])) * slab.cols * core::size_of(type));
  }
  return count.high_water();
}

// Kept of a token on each stage.
std::vector<std::int64_t> kept_per_token(const TrainingShape& shape, const Stages& stages) {
  const auto lists = model::kept_tensors(shape.config, shape.precision, shape.storage);  // dense, MoE (where there are any), between
  const auto block = [&](std::int64_t l) {
    return (shape.config.is_moe_layer(l) ? lists[lists.size() - 2] : lists.front()).bytes_per_token();
  };
  std::vector<std::int64_t> bytes(static_cast<std::size_t>(stages.count()));
  for (std::size_t s = 0; s < bytes.size(); ++s)
    for (int l = stages.first_block[s]; l < stages.first_block[s + 1]; ++l) bytes[s] += block(l);
  for (std::int64_t l = stages.main_blocks(); l < shape.config.blocks(); ++l) bytes.back() += block(l);
  bytes.back() += lists.back().bytes_per_token();
  return bytes;
}

}  // namespace

std::vector<RankBytes> bytes_per_rank(const TrainingShape& shape, const Stages& stages) {
  const Mesh mesh(shape.layout);
  mesh.require_experts(static_cast<int>(shape.config.n_routed_experts));
  model::check_storage(shape.precision, shape.storage);
  const Schedule schedule = make_schedule(shape.schedule, shape.layout.pp, shape.micro_batches);
  FB_CHECK(stages.count() == schedule.stages, "{} stages, {}", stages.count(), schedule.stages);
  const ParameterList all = model::list_parameters(shape.config);
  const auto kept = kept_per_token(shape, stages);

  std::vector<RankBytes> ranks;
  for (int rank = 0; rank < mesh.world(); ++rank) {
    const Part part = part_of(all, mesh, shape.schedule, stages, rank);
    std::int64_t largest = 0;
    for (const int s : part.stages) largest = std::max(largest, kept[static_cast<std::size_t>(s)]);
    const auto& actions = schedule.actions[static_cast<std::size_t>(mesh.at(rank).pp)];
    ranks.push_back({.weights = weight_bytes(part, shape.precision),
                     .gradients = gradient_bytes(part.list, shape.precision),
                     .master = share_bytes(part, rank, shape.precision.accumulator, /*whole=*/true),
                     .moments = 2 * share_bytes(part, rank, shape.moments, /*whole=*/false),
                     .activations = peak_activations(actions) * largest * shape.sequences * shape.seq_len});
  }
  return ranks;
}

}  // namespace finback::parallel
