#include "train/as_layout.h"

#include "core/error.h"
#include "train/layout.h"
#include "train/state.h"

#include <algorithm>
#include <cstring>

namespace finback::train {

using core::Mat;
using model::Role;
using model::Slab;
using parallel::ScheduleKind;

namespace {

struct Lanes {
  std::vector<model::SlabBuffers> gradients;
  Mat embedding;
};

// [dp · directions]; the lanes of an expert group have their experts' gradients in common.
Lanes take_lanes(core::Arena& arena, const RunConfig& run, const model::ParameterList& list) {
  const std::int64_t directions = run.parallel.schedule == "dualpipe" ? 2 : 1, ep = run.parallel.ep;
  Lanes lanes;
  for (std::int64_t lane = 0; lane < run.parallel.dp * directions; ++lane) {
    const std::int64_t dp = lane / directions;
    model::SlabBuffers& g = lanes.gradients.emplace_back();
    for (std::size_t s = 0; s < list.slabs.size(); ++s) {
      const Slab& slab = list.slabs[s];
      if (!slab.trained) g.slabs.emplace_back();
      else if (slab.role == Role::expert && dp % ep != 0)
        g.slabs.push_back(lanes.gradients[static_cast<std::size_t>(lane - dp % ep * directions)].slabs[s]);
      else g.slabs.push_back(arena.take_mat(core::DType::f32, slab.groups * slab.rows, slab.cols));
    }
  }
  lanes.embedding = arena.take_mat(core::DType::f32, list.slabs.front().rows, list.slabs.front().cols);
  return lanes;
}

}  // namespace

std::int64_t AsLayout::bytes_needed(const RunConfig& run, const model::ParameterList& list) {
  core::Arena count = core::Arena::counting();
  take_lanes(count, run, list);
  return count.high_water();
}

AsLayout::AsLayout(const RunConfig& run, const model::ModelConfig& config, const model::ParameterList& list)
    : config_(config),
      list_(list),
      mesh_(layout_of(run)),
      kind_(parallel::schedule_kind_of(run.parallel.schedule)),
      stages_(stages_of(run, config)),
      arena_("gradients of lanes", bytes_needed(run, list)) {
  Lanes taken = take_lanes(arena_, run, list);
  for (model::SlabBuffers& g : taken.gradients) {
    lanes_.push_back({std::move(g), {}});
    lanes_.back().sums.reset(config);
  }
  embedding_of_a_rank_ = taken.embedding;
}

// The lanes of the ranks that hold a stage, in rank order; of data-parallel ranks every step-th.
std::vector<std::size_t> AsLayout::lanes_of(int stage, int step) const {
  std::vector<std::size_t> lanes;
  for (int place = 0; place < mesh_.layout().pp; ++place) {
    const auto own = parallel::stages_on(kind_, mesh_.layout().pp, place);
    if (std::find(own.begin(), own.end(), stage) == own.end()) continue;
    for (int dp = 0; dp < mesh_.layout().dp; dp += step) lanes.push_back(lane(dp, kind_ == ScheduleKind::dualpipe && place != stage));
  }
  return lanes;
}

void AsLayout::compute(model::Transformer& transformer, const model::Pass& pass, int micro_batches, const MicroBatches& batch,
                       const model::SlabBuffers& gradients, model::LossSums& sums) {
  const kernels::Context& ctx = pass.ctx;
  for (Lane& lane : lanes_) {
    lane.sums.reset(config_);
    for (const Mat& g : lane.gradients.slabs)
      if (g) std::memset(g.data, 0, static_cast<std::size_t>(g.bytes()));
  }
  const int dp_ranks = mesh_.layout().dp, a_direction = micro_batches / directions();
  embedded_.assign(static_cast<std::size_t>(dp_ranks * micro_batches), {});

  // An expert group's members in turn: their experts add the same micro-batch of each, in rank order.
  for (int i = 0; i < a_direction; ++i)
    for (int direction = 0; direction < directions(); ++direction)
      for (int dp = 0; dp < dp_ranks; ++dp) {
        const int m = direction * a_direction + i;
        Lane& l = lanes_[lane(dp, direction)];
        auto& rows = embedded_[static_cast<std::size_t>(dp * micro_batches + m)];
        const model::EmbeddingSink keep = [&](core::ConstMat d, std::span<const std::int32_t> ids, bool mtp) {
          const auto* bytes = static_cast<const std::byte*>(d.data);
          rows.push_back({mtp, {bytes, bytes + d.size() * core::size_of(d.dtype)}, {ids.begin(), ids.end()}});
        };
        model::Pass of_lane = pass;
        of_lane.gradients = &l.gradients;
        of_lane.embedding = &keep;
        transformer.forward_backward(of_lane, batch(dp, m), l.sums);
      }

  for (std::size_t s = 0; s < list_.slabs.size(); ++s) {
    const Mat total = gradients.slabs[s];
    if (!total) continue;
    const Slab& slab = list_.slabs[s];
    if (slab.role == Role::embedding) {
      add_embedding(pass, micro_batches, total);
      continue;
    }
    bool first = true;
    for (const std::size_t l : lanes_of(stages_.of(slab), slab.role == Role::expert ? mesh_.layout().ep : 1)) {
      const Mat& g = lanes_[l].gradients.slabs[s];
      if (first) std::memcpy(total.data, g.data, static_cast<std::size_t>(g.bytes()));
      else ctx.kernels.add(ctx, flat(total), flat(g), flat(total));
      first = false;
    }
  }

  // Losses are computed by the ranks of the last stage, the balance of a layer by those of its stage.
  sums.reset(config_);
  const int last = stages_.count() - 1;
  for (const std::size_t l : lanes_of(last, 1)) {
    const model::LossSums& of = lanes_[l].sums;
    sums.main += of.main;
    for (std::size_t d = 0; d < sums.mtp.size(); ++d) sums.mtp[d] += of.mtp[d];
  }
  for (std::size_t block = 0; block < sums.balance.size(); ++block) {
    const Slab in_block{.role = Role::norm, .layer = static_cast<std::int64_t>(block)};
    for (const std::size_t l : lanes_of(stages_.of(in_block), 1)) sums.balance[block] += lanes_[l].sums.balance[block];
  }
  for (Lane& lane : lanes_) {
    auto to = sums.counts(), from = lane.sums.counts();
    for (std::size_t i = 0; i < to.size(); ++i)
      for (std::size_t j = 0; j < to[i].size(); ++j) to[i][j] += from[i][j];
  }
}

// The embedding is held where it is looked up and where MTP modules read it. A rank that holds it adds as its list goes on; then the
// ranks are added.
void AsLayout::add_embedding(const model::Pass& pass, int micro_batches, Mat total) {
  const kernels::Context& ctx = pass.ctx;
  const parallel::Schedule schedule = parallel::make_schedule(kind_, mesh_.layout().pp, micro_batches);
  const parallel::Part first_part = parallel::part_of(list_, mesh_, kind_, stages_, 0);
  const core::DType storage = pass.weights.slabs.front().dtype;
  bool first = true;
  for (const int rank : first_part.embedding) {
    const parallel::Coordinates at = mesh_.at(rank);
    const Mat mine = first ? total : embedding_of_a_rank_;
    std::memset(mine.data, 0, static_cast<std::size_t>(mine.bytes()));
    for (const parallel::Action& a : schedule.actions[static_cast<std::size_t>(at.pp)]) {
      if (a.work == parallel::Work::forward || a.work == parallel::Work::backward_weight) continue;
      for (const EmbeddedRows& rows : embedded_[static_cast<std::size_t>(at.dp * micro_batches + a.backward.micro_batch)]) {
        if (a.backward.stage != (rows.mtp ? stages_.count() - 1 : 0)) continue;
        const auto T = std::ssize(rows.ids);
        const core::ConstMat d{rows.gradient.data(), storage, T, total.cols, total.cols};
        ctx.kernels.embedding_backward(ctx, d, rows.ids, mine);
      }
    }
    if (!first) ctx.kernels.add(ctx, flat(total), flat(mine), flat(total));
    first = false;
  }
}

}  // namespace finback::train
