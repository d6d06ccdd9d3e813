#include "parallel/bytes.h"

#include "core/arena.h"
#include "core/error.h"
#include "parallel/shards.h"

#include <algorithm>

namespace finback::parallel {
namespace {

using model::ParameterList;
using model::Slab;

// Of how many ranks' memory the masters of a slab are shares.
struct Replicas {
  int dense = 1, expert = 1;
  int of(const Slab& s) const { return s.role == model::Role::expert ? expert : dense; }
};

std::int64_t weight_bytes(const ParameterList& part, const model::Precision& precision, const Replicas& replicas) {
  ParameterList copied;
  for (const Slab& s : part.slabs)
    if (precision.storage != precision.accumulator || replicas.of(s) > 1) copied.slabs.push_back(s);
  core::Arena count = core::Arena::counting();
  model::take_weights(count, copied, precision);
  return count.high_water();
}

std::int64_t gradient_bytes(const ParameterList& part, const model::Precision& precision) {
  core::Arena count = core::Arena::counting();
  model::take_slabs(count, part, precision.accumulator, /*trained_only=*/true);
  return count.high_water();
}

// A rank's shares: of what its stages hold, among all that hold the same.
class Shares {
 public:
  Shares(const ParameterList& part, const Replicas& replicas)
      : part_(part), dense_(part, replicas.dense), experts_(part, replicas.expert) {}

  // dense, expert: the rank's place among the replicas of each. `whole` adds what no optimiser moves, of which every rank needs all.
  std::int64_t bytes(int dense, int expert, core::DType type, bool whole) const {
    core::Arena count = core::Arena::counting();
    for (std::size_t s = 0; s < part_.slabs.size(); ++s) {
      const Slab& slab = part_.slabs[s];
      const bool of_experts = slab.role == model::Role::expert;
      const Shards& shards = of_experts ? experts_ : dense_;
      const int place = of_experts ? expert : dense;
      if (slab.trained || whole) count.take((shards.end(s, place) - shards.begin(s, place)) * slab.cols * core::size_of(type));
    }
    return count.high_water();
  }

 private:
  const ParameterList& part_;
  Shards dense_, experts_;
};

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
  const int pp = shape.layout.pp, dp = shape.layout.dp, ep = shape.layout.ep;
  const Schedule schedule = make_schedule(shape.schedule, pp, shape.micro_batches);
  FB_CHECK(stages.count() == schedule.stages, "{} stages, {}", stages.count(), schedule.stages);
  const ParameterList all = model::list_parameters(shape.config);
  const int copies = shape.schedule == ScheduleKind::dualpipe ? 2 : 1;
  const Replicas replicas{.dense = copies * dp, .expert = copies * dp / ep};
  const auto kept = kept_per_token(shape, stages);

  std::vector<RankBytes> ranks;
  for (int r = 0; r < pp; ++r) {
    const std::vector<int> own = stages_on(shape.schedule, pp, r);
    const ParameterList part = parameters_on(all, stages, own, ep, /*ep_index=*/0);
    // MTP reads the embedding: a copy of it where the last stage is apart from the first.
    ParameterList computed = part;
    if (shape.config.num_nextn_predict_layers > 0 && own.back() == stages.count() - 1 && own.front() != 0)
      computed.slabs.push_back(
          *std::find_if(all.slabs.begin(), all.slabs.end(), [](const Slab& s) { return s.role == model::Role::embedding; }));
    std::int64_t largest = 0;
    for (const int s : own) largest = std::max(largest, kept[static_cast<std::size_t>(s)]);
    const RankBytes alike{
        .weights = weight_bytes(computed, shape.precision, replicas),
        .gradients = gradient_bytes(computed, shape.precision),
        .activations = peak_activations(schedule.actions[static_cast<std::size_t>(r)]) * largest * shape.sequences * shape.seq_len};
    const Shares shares(part, replicas);
    const int copy = copies == 2 && r >= pp / 2 ? 1 : 0;  // the replicas of a stage in rank order: those of the first half, then the other
    for (int d = 0; d < dp; ++d) {
      const int dense = copy * dp + d, expert = copy * (dp / ep) + d / ep;
      RankBytes& rank = ranks.emplace_back(alike);
      rank.master = shares.bytes(dense, expert, shape.precision.accumulator, /*whole=*/true);
      rank.moments = 2 * shares.bytes(dense, expert, shape.moments, /*whole=*/false);
    }
  }
  return ranks;
}

}  // namespace finback::parallel
