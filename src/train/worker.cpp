#include "train/worker.h"

#include "comm/world.h"
#include "train/run_parts.h"

namespace finback::train {

void run_worker(const RunConfig& run, const RunOptions& options) {
  // A launcher sends its signals to every process. The first rank stops the run; the others wait for its word.
  std::optional<StopSignals> signals;
  if (comm::under_launcher()) signals.emplace();
  RunParts parts(run, options);
  TrainState& state = parts.trainer.state();
  for (;;) {
    const Order order = take_order(parts);
    switch (order.kind) {
      case Order::initialise:
        state.initialise(parts.config, static_cast<std::uint64_t>(run.train.seed), parts.trainer.context());
        break;
      case Order::restore:
        parts.restore(order.path);
        break;
      case Order::step:
        state.counters = order.counters;
        parts.trainer.step();
        break;
      case Order::evaluate:
        parts.evaluator->run(
            parts.trainer, [] { return false; }, parts.member.get());
        break;
      case Order::save:
        Snapshot::send_share(state, *parts.member);
        break;
      case Order::end:
        return;
    }
  }
}

}  // namespace finback::train
