#include "train/trainer.h"

#include "core/error.h"
#include "train/recipe.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace finback::train {
namespace {

core::DType moments_of(const RunConfig& run) { return run.optimizer.moments == "bf16" ? core::DType::bf16 : core::DType::f32; }

model::Transformer::Options options_of(const RunConfig& run) {
  return {.precision = precision_of(run),
          .storage = model::activation_storage_of(run.train.activation_storage),
          .max_tokens = run.train.micro_batch * run.data.seq_len,
          .max_seq_len = run.data.seq_len,
          .max_sequences = run.train.micro_batch,
          .training = true};
}

bool has_mtp(const RunConfig& run, const model::ModelConfig& config, std::int64_t step) {
  return config.num_nextn_predict_layers > 0 && mtp_loss_weight(run, step) > 0;
}

// Sequences that this process takes of the largest batch.
std::int64_t most_sequences(const RunConfig& run, const parallel::Zero* zero) {
  return run.train.global_batch / (zero ? zero->ranks().size() : 1);
}

std::int64_t batch_bytes(const RunConfig& run, const parallel::Zero* zero) {
  return 2 * most_sequences(run, zero) * run.data.seq_len * static_cast<std::int64_t>(sizeof(std::int32_t));
}

// Of one rank, beside the sum over those before it.
bool takes_rank_gradients(const RunConfig& run, const parallel::Zero* zero) { return !zero && run.parallel.dp > 1; }
std::int64_t rank_gradient_bytes(const RunConfig& run, const model::ParameterList& list, const parallel::Zero* zero) {
  if (!takes_rank_gradients(run, zero)) return 0;
  core::Arena count = core::Arena::counting();
  model::take_slabs(count, list, precision_of(run).accumulator, /*trained_only=*/true);
  return count.high_water();
}

void zero(core::Team& team, const model::SlabBuffers& buffers) {
  constexpr std::int64_t kRun = 1 << 20;  // bytes a task
  for (const core::Mat& x : buffers.slabs) {
    if (!x) continue;
    auto* bytes = static_cast<std::byte*>(x.data);
    core::parallel_for(team, (x.bytes() + kRun - 1) / kRun, [&](std::int64_t task) {
      std::memset(bytes + task * kRun, 0, static_cast<std::size_t>(std::min(kRun, x.bytes() - task * kRun)));
    });
  }
}

double bytes_of(const model::SlabBuffers& buffers) {
  double sum = 0;
  for (const core::Mat& x : buffers.slabs) sum += x ? static_cast<double>(x.bytes()) : 0;
  return sum;
}

std::int64_t block_rows(std::int64_t rows) { return (rows + parallel::kBlockRows - 1) / parallel::kBlockRows; }

double mean(double sum, std::int64_t n) { return n > 0 ? sum / static_cast<double>(n) : 0; }

}  // namespace

MemoryByKind Trainer::memory_needed(const RunConfig& run, const model::ModelConfig& config, const model::ParameterList& list, int threads,
                                    const parallel::Zero* zero) {
  MemoryByKind need = TrainState::memory_needed(list, precision_of(run), moments_of(run), zero);
  need.gradients += in_pages(rank_gradient_bytes(run, list, zero));
  const auto transformer = model::Transformer::memory_needed(config, options_of(run));
  need.activations = in_pages(transformer.activations);
  need.work = in_pages(transformer.recomputed) + in_pages(transformer.work) + in_pages(transformer.tiles) +
              in_pages(kernels::scratch_bytes(threads));
  need.batch = in_pages(batch_bytes(run, zero));
  return need;
}

Trainer::Trainer(const RunConfig& run, const model::ModelConfig& config, const model::ParameterList& list, core::Team& team,
                 const kernels::Table& kernels, TokenSource tokens, core::Spans* spans, parallel::Zero* zero)
    : run_(run),
      config_(config),
      team_(team),
      kernels_(kernels),
      source_(std::move(tokens)),
      spans_(spans),
      zero_(zero),
      state_(list, precision_of(run), moments_of(run), zero),
      transformer_(config, list, options_of(run)),
      scratch_("scratch", kernels::scratch_bytes(team.threads())),
      batch_arena_("batch", batch_bytes(run, zero) + 128),
      gradients_arena_("gradients of a rank", rank_gradient_bytes(run, list, zero)) {
  const std::int64_t most = most_sequences(run, zero) * run.data.seq_len;
  inputs_ = {batch_arena_.take_array<std::int32_t>(most), static_cast<std::size_t>(most)};
  targets_ = {batch_arena_.take_array<std::int32_t>(most), static_cast<std::size_t>(most)};
  sums_.reset(config_);
  rank_sums_.reset(config_);
  if (takes_rank_gradients(run, zero))
    rank_gradients_ = model::take_slabs(gradients_arena_, list, precision_of(run).accumulator, /*trained_only=*/true);
  std::int64_t blocks = 0;
  for (const model::Parameter& p : list.parameters) blocks += block_rows(p.rows);
  squares_.resize(static_cast<std::size_t>(blocks));
  if (run.fp8.accumulate_bits != 0 && kernels.name != kernels::reference().name)
    throw core::Error(core::Exit::usage, fmt::format("sums of {} bits on the {} kernels", run.fp8.accumulate_bits, kernels.name),
                      "fp8.accumulate_bits", "set it to 0, or run with FINBACK_ISA=reference, which emulates them slowly");
}

MemoryByKind Trainer::memory() const {
  MemoryByKind now = memory_needed(run_, config_, state_.list, team_.threads(), zero_);
  now.work += in_pages(scratch_.high_water()) - in_pages(scratch_.capacity());
  return now;
}

StepReport Trainer::step() {
  const core::SpanScope span(spans_, "step");
  Counters& counters = state_.counters;
  const std::int64_t step = counters.step;
  const std::int64_t sequences = batch_size(run_, step);
  const std::int64_t sequences_here = sequences / (zero_ ? zero_->ranks().size() : 1);
  {
    const core::SpanScope batch(spans_, "batch");
    const auto tokens_here = static_cast<std::size_t>(sequences_here * run_.data.seq_len);
    const std::int64_t first = counters.sequences + (zero_ ? zero_->ranks().rank() * sequences_here : 0);
    source_(first, inputs_.first(tokens_here), targets_.first(tokens_here));
  }

  StepReport report;
  compute_gradients(sequences);
  report.grad_norm = gradient_norm();
  if (!finite(report)) {
    const std::uint64_t first = fingerprint();
    compute_gradients(sequences);
    report.grad_norm = gradient_norm();
    report.recomputed = true;
    report.suspected_corruption = sum_over_ranks(fingerprint() != first) > 0;
  }
  report.step = step + 1;
  report.sequences = sequences;
  report.tokens = sequences * run_.data.seq_len;
  report.loss = mean(sums_.main, sums_.main_tokens);
  report.learning_rate = learning_rate(run_, step);
  for (std::size_t d = 0; d < sums_.mtp.size(); ++d)
    report.mtp_loss += mean(sums_.mtp[d], sums_.mtp_tokens[d]) / static_cast<double>(sums_.mtp.size());
  if (!sums_.mtp.empty()) report.mtp_acceptance = mean(static_cast<double>(sums_.mtp_accepted[0]), sums_.mtp_tokens[0]);
  report.nonfinite_tiles = sums_.nonfinite_tiles + state_.nonfinite_blocks;
  report.expert_load = sums_.expert_load;
  describe_experts(report);
  report.outcome = judge(report);
  if (report.outcome == StepOutcome::rollback_wanted) return report;

  if (report.outcome == StepOutcome::updated) {
    const double clip = run_.optimizer.grad_clip;
    update_weights(clip > 0 && report.grad_norm > clip ? clip / report.grad_norm : 1);
    update_biases();
  } else {
    ++counters.skipped;
  }
  counters.advance(sequences, report.tokens);
  return report;
}

// Balance loss a sequence and MoE layer, and the worst layer's imbalance.
void Trainer::describe_experts(StepReport& report) const {
  const std::span<const std::int64_t> load{sums_.expert_load};
  const auto experts = static_cast<std::size_t>(config_.n_routed_experts);
  std::int64_t layers = 0;
  for (std::int64_t block = 0; block < config_.blocks(); ++block) {
    if (!config_.is_moe_layer(block)) continue;
    const double imbalance = load_imbalance(load.subspan(static_cast<std::size_t>(block) * experts, experts));
    report.imbalance = std::max(report.imbalance, imbalance);
    layers += imbalance > 0;
  }
  report.balance_loss = mean(std::accumulate(sums_.balance.begin(), sums_.balance.end(), 0.0), layers * report.sequences);
}

// gradients and sums_ of the step's whole batch. Each rank has as many sequences, in order; a rank's micro-batches are added in order, then
// the ranks. Over ranks a rank's own rows of the gradients are the sum, and of sums_ all is.
void Trainer::compute_gradients(std::int64_t sequences) {
  const std::int64_t step = state_.counters.step, ranks = run_.parallel.dp, sequences_a_rank = sequences / ranks;
  const auto tokens_a_rank = static_cast<std::size_t>(sequences_a_rank * run_.data.seq_len);
  const std::size_t ranks_here = zero_ ? 1 : static_cast<std::size_t>(ranks);
  const auto targets = targets_.first(ranks_here * tokens_a_rank);
  const std::int64_t scored = sum_over_ranks(std::count_if(targets.begin(), targets.end(), [](std::int32_t t) { return t >= 0; }));
  const double per_token = scored > 0 ? 1 / static_cast<double>(scored) : 0;
  const bool with_mtp = has_mtp(run_, config_, step);
  model::LossWeights scale;
  scale.main = per_token;
  if (with_mtp) scale.mtp = mtp_loss_weight(run_, step) * per_token / static_cast<double>(config_.num_nextn_predict_layers);
  scale.sequence_balance = run_.moe.sequence_balance_alpha / static_cast<double>(sequences);

  const kernels::Context ctx = context();
  for (std::size_t r = 0; r < ranks_here; ++r) {
    const model::SlabBuffers& gradients = r == 0 ? state_.gradients : rank_gradients_;
    model::LossSums& sums = r == 0 ? sums_ : rank_sums_;
    {
      const core::SpanScope span(spans_, "zero_gradients", -1, {.written = bytes_of(gradients)});
      zero(team_, gradients);
    }
    sums.reset(config_);
    const auto tokens_a_batch = static_cast<std::size_t>(run_.train.micro_batch * run_.data.seq_len);
    for (std::size_t at = r * tokens_a_rank; at < (r + 1) * tokens_a_rank; at += tokens_a_batch) {
      const model::MicroBatch batch{run_.train.micro_batch, run_.data.seq_len, inputs_.subspan(at, tokens_a_batch),
                                    targets_.subspan(at, tokens_a_batch)};
      transformer_.forward_backward({ctx, state_.weights, &gradients, scale, with_mtp}, batch, sums);
    }
    if (r == 0) continue;
    for (std::size_t s = 0; s < gradients.slabs.size(); ++s)
      if (const core::Mat& g = state_.gradients.slabs[s]) kernels_.add(ctx, flat(g), flat(gradients.slabs[s]), flat(g));
    sums_.add(rank_sums_);
  }
  if (!zero_) return;
  const core::SpanScope span(spans_, "sum_gradients");
  zero_->sum_gradients(state_.gradients);
  for (const std::span<double> x : sums_.reals()) zero_->ranks().all_reduce(x);
  for (const std::span<std::int64_t> x : sums_.counts()) zero_->ranks().all_reduce(x);
}

std::int64_t Trainer::sum_over_ranks(std::int64_t x) const {
  if (zero_) zero_->ranks().all_reduce(std::span(&x, 1));
  return x;
}

// Summed block row by block row, tensor by tensor in the order of the checkpoint, so that the norm does not depend on how tensors are
// stacked in slabs or spread over ranks.
double Trainer::gradient_norm() {
  const core::SpanScope span(spans_, "gradient_norm");
  const kernels::Context ctx = context();
  std::fill(squares_.begin(), squares_.end(), 0);
  const auto& owned = state_.owned.parameters;
  std::size_t block = 0, next = 0;  // of all parameters; of owned
  for (const model::Parameter& p : state_.list.parameters) {
    if (next < owned.size() && owned[next].name == p.name) {
      const model::Parameter& piece = owned[next++];
      const auto s = static_cast<std::size_t>(p.slab);
      if (state_.gradients.slabs[s]) {
        const core::Mat g = state_.own_gradient(s).row_range(piece.row, piece.rows);
        for (std::int64_t row = 0; row < piece.rows; row += parallel::kBlockRows)
          squares_[block + static_cast<std::size_t>(block_rows(piece.first_row + row))] =
              kernels_.sum_squares(ctx, flat(g.row_range(row, std::min(parallel::kBlockRows, piece.rows - row))));
      }
    }
    block += static_cast<std::size_t>(block_rows(p.rows));
  }
  if (zero_) zero_->ranks().all_reduce(squares_);
  double total = 0;
  for (const double x : squares_) total += x;
  return std::sqrt(total);
}

void Trainer::update_weights(double scale) {
  const core::SpanScope span(spans_, "update_weights");
  const kernels::Context ctx = context();
  const auto& o = run_.optimizer;
  kernels::AdamW options{.lr = learning_rate(run_, state_.counters.step), .beta1 = o.beta1, .beta2 = o.beta2, .eps = o.eps};
  options.step = ++state_.counters.optimizer_steps;
  options.gradient_scale = scale;
  for (std::size_t s = 0; s < state_.list.slabs.size(); ++s) {
    if (!state_.gradients.slabs[s]) continue;
    options.weight_decay = state_.list.slabs[s].weight_decay ? o.weight_decay : 0;
    if (state_.master.slabs[s].rows == 0) continue;
    const core::Mat rounded = state_.has_codes(s) ? state_.master.slabs[s] : state_.own_weights(s).numbers;
    ctx.kernels.adamw(ctx, flat(state_.own_gradient(s)), options, flat(state_.master.slabs[s]), flat(state_.m.slabs[s]),
                      flat(state_.v.slabs[s]), flat(rounded));
  }
  state_.complete_weights(ctx);
}

void Trainer::update_biases() {
  const double speed = bias_update_speed(run_, state_.counters.step);
  const auto experts = static_cast<std::size_t>(config_.n_routed_experts);
  for (std::size_t s = 0; s < state_.list.slabs.size(); ++s) {
    const model::Slab& slab = state_.list.slabs[s];
    if (slab.role != model::Role::gate_bias) continue;
    const std::span<const std::int64_t> load{sums_.expert_load};
    update_gate_bias(load.subspan(static_cast<std::size_t>(slab.layer) * experts, experts), speed, flat(state_.master.slabs[s]));
  }
}

// Of all that a bad step is judged by. Only computed when something is wrong.
std::uint64_t Trainer::fingerprint() const {
  std::uint64_t sum = XXH3_64bits(&sums_.main, sizeof sums_.main);
  for (const core::Mat& g : state_.gradients.slabs)
    if (g) sum = XXH3_64bits_withSeed(g.data, static_cast<std::size_t>(g.bytes()), sum);
  return sum;
}

bool Trainer::finite(const StepReport& report) const {
  return std::isfinite(sums_.main) && std::isfinite(report.grad_norm) && sums_.nonfinite_tiles + state_.nonfinite_blocks == 0;
}

StepOutcome Trainer::judge(StepReport& report) {
  Counters& counters = state_.counters;
  if (!finite(report)) {
    ++counters.bad_in_a_row;
    return StepOutcome::skipped_nonfinite;
  }
  counters.bad_in_a_row = 0;
  const auto& g = run_.guard;
  SpikeGuard& guard = counters.guard;
  report.loss_zscore = guard.loss.zscore(report.loss, g.spike_window);
  report.norm_zscore = guard.norm.zscore(report.grad_norm, g.spike_window);
  const bool spike = g.spike_zscore > 0 && std::max(report.loss_zscore, report.norm_zscore) > g.spike_zscore;
  guard.loss.add(report.loss, g.spike_window, g.spike_zscore);
  guard.norm.add(report.grad_norm, g.spike_window, g.spike_zscore);
  if (!spike || g.spike_action == "log") return StepOutcome::updated;
  return g.spike_action == "skip" ? StepOutcome::skipped_spike : StepOutcome::rollback_wanted;
}

}  // namespace finback::train
