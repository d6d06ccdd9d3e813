#include "train/layout.h"

#include "train/recipe.h"

namespace finback::train {

parallel::Layout layout_of(const RunConfig& run) {
  return {.pp = static_cast<int>(run.parallel.pp), .dp = static_cast<int>(run.parallel.dp), .ep = static_cast<int>(run.parallel.ep)};
}

parallel::Stages stages_of(const RunConfig& run, const model::ModelConfig& config) {
  const parallel::ScheduleKind kind = parallel::schedule_kind_of(run.parallel.schedule);
  return parallel::cut_stages(config, run.data.seq_len, parallel::stages_of(kind, static_cast<int>(run.parallel.pp)));
}

void require_layout(const RunConfig& run, const model::ModelConfig& config) {
  const parallel::Mesh mesh(layout_of(run));
  mesh.require_experts(static_cast<int>(config.n_routed_experts));
  for (const int n : all_micro_batches(run))
    parallel::make_schedule(parallel::schedule_kind_of(run.parallel.schedule), mesh.layout().pp, n);
}

std::unique_ptr<parallel::Member> join(const RunConfig& run, const model::ModelConfig& config, const model::ParameterList& list,
                                       comm::Communicator& world) {
  parallel::Mesh(layout_of(run)).require_world(world.size());
  return std::make_unique<parallel::Member>(world, list, layout_of(run), parallel::schedule_kind_of(run.parallel.schedule),
                                            stages_of(run, config));
}

}  // namespace finback::train
