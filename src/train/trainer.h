// One training step, held in one function: tokens → forward and backward of each micro-batch → clipping → AdamW → the gate's
// bias [V3 §2.1.2, §4.2]. The loop around it (evaluation, checkpoints, what a person sees) is in run.h.
#pragma once

#include "parallel/expert_exchange.h"
#include "parallel/pipeline.h"
#include "train/as_layout.h"
#include "train/state.h"
#include "train/stragglers.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace finback::train {

// Fills `inputs` and `targets` with whole sequences, the first of them number `first_sequence` of the run (from 0). A pure function.
using TokenSource = std::function<void(std::int64_t first_sequence, std::span<std::int32_t> inputs, std::span<std::int32_t> targets)>;

enum class StepOutcome {
  updated,
  skipped_nonfinite,  // loss, norm or an FP8 tile is NaN or infinite, twice with the same bits
  skipped_spike,
  rollback_wanted,  // a spike, and the run file says to go back; nothing was changed
};

struct StepReport {
  StepOutcome outcome = StepOutcome::updated;
  std::int64_t step = 0;  // steps done, this one counted
  std::int64_t sequences = 0, tokens = 0;
  double loss = 0, mtp_loss = 0, mtp_acceptance = 0, balance_loss = 0;  // means: nats a token, share of tokens, Σ f·P a sequence and layer
  double grad_norm = 0, learning_rate = 0, imbalance = 0;               // imbalance: worst layer's busiest expert over the mean
  double loss_zscore = 0, norm_zscore = 0;
  // FP8 tiles of this step (of weights, inputs and gradients) that held a NaN or an infinity; any makes the step a bad one.
  std::int64_t nonfinite_tiles = 0;
  bool recomputed = false;                    // the first result was NaN or infinite, or guard.recheck_every says so
  std::vector<int> suspects;                  // … and the second had other bits: the ranks where it did (0: of one process)
  std::span<const std::int64_t> expert_load;  // [blocks · E], until the next step
  std::span<const RankTime> rank_times;       // [ranks], likewise; of one process: none
};

class Trainer {
 public:
  // Takes all memory. `tokens` is kept; `list` is of the whole model. `spans` records steps and their parts, down to kernels where
  // `kernels` is a traced table. member: this is one of the ranks of [parallel], which all call step() together. Null: one process, which
  // forms its sums as those ranks would. Throws Error(usage) for what `kernels` cannot do and for a schedule that does not exist.
  Trainer(const RunConfig& run, const model::ModelConfig& config, const model::ParameterList& list, core::Team& team,
          const kernels::Table& kernels, TokenSource tokens, core::Spans* spans = nullptr, parallel::Member* member = nullptr);

  // Computed from shapes alone, before anything is reserved; without the snapshot. The kernels' scratch counts as reserved.
  static MemoryByKind memory_needed(const RunConfig& run, const model::ModelConfig& config, const model::ParameterList& list, int threads,
                                    const parallel::Member* member = nullptr);

  // The same with the scratch as used so far: what is resident after a step.
  MemoryByKind memory() const;
  // What the activation store of one micro-batch took, on the larger of the rank's stages.
  std::int64_t activation_bytes() const { return transformer_.activation_bytes(); }

  StepReport step();

  TrainState& state() { return state_; }
  // So far, of the tokens of spread experts; zeros where they are not.
  parallel::ExchangeTimes exchange_times() const { return exchange_ ? exchange_->times() : parallel::ExchangeTimes{}; }
  // Forward and losses of a micro-batch without training; all ranks of a pipeline together.
  void evaluate(const model::MicroBatch& batch, bool with_mtp, model::LossSums& sums);
  kernels::Context context() { return {kernels_, team_, scratch_, spans_}; }

 private:
  void compute_gradients(std::int64_t sequences);
  std::vector<int> suspects_of(bool differs) const;
  void recheck(std::int64_t sequences, StepReport& report);
  std::int64_t sum_over_ranks(std::int64_t x) const;
  double gradient_norm();
  bool finite(const StepReport& report) const;
  void update_weights(double scale);
  void update_biases();
  std::uint64_t fingerprint() const;
  void describe_experts(StepReport& report) const;
  StepOutcome judge(StepReport& report);
  StepReport compute_step();
  void gather_times(double begin, const comm::Times& before);

  const RunConfig run_;
  const model::ModelConfig config_;
  core::Team& team_;
  const kernels::Table& kernels_;
  TokenSource source_;
  core::Spans* spans_;
  parallel::Member* const member_;
  const model::ParameterList& all_;
  const std::unique_ptr<parallel::ExpertExchange> exchange_;  // null: every rank has all experts of its layers
  TrainState state_;
  model::Transformer transformer_;
  parallel::Pipeline pipeline_;
  std::unique_ptr<AsLayout> as_layout_;  // where one process stands for several ranks
  core::Arena scratch_, batch_arena_;
  std::span<std::int32_t> inputs_, targets_;  // of the largest step
  model::LossSums sums_;
  std::vector<RankTime> rank_times_;
  std::uint64_t bits_ = 0;       // of this rank's gradients and losses, before the ranks' are added; where they are compared
  std::vector<double> squares_;  // of each block row of each parameter
};

}  // namespace finback::train
