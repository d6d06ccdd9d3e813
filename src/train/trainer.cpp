#include "train/trainer.h"

#include "core/clock.h"
#include "core/error.h"
#include "train/recipe.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace finback::train {
namespace {

int pipeline_place(const parallel::Member* member) { return member ? member->at().pp : 0; }

parallel::CellsNeeded cells_of(const RunConfig& run, const parallel::Member* member) {
  if (!member) return {};
  return parallel::cells_needed(member->schedule(), member->mesh().layout().pp, pipeline_place(member), all_micro_batches(run));
}

model::Transformer::Options options_of(const RunConfig& run, const parallel::Member* member, model::ExpertExchange* exchange = nullptr) {
  const parallel::CellsNeeded needed = cells_of(run, member);
  model::Transformer::Options o{.precision = precision_of(run),
                                .storage = model::activation_storage_of(run.train.activation_storage),
                                .max_tokens = run.train.micro_batch * run.data.seq_len,
                                .max_seq_len = run.data.seq_len,
                                .max_sequences = run.train.micro_batch,
                                .training = true,
                                .cells = needed.cells,
                                .waiting = needed.waiting,
                                .pairs = needed.pairs};
  if (!member) return o;
  o.expert_ranks = member->mesh().layout().ep;
  o.exchange = exchange;
  o.max_imbalance = run.moe.max_imbalance;
  for (const int stage : member->part().stages) o.stages.push_back(parallel::shape_of(member->stages(), stage));
  return o;
}

bool has_mtp(const RunConfig& run, const model::ModelConfig& config, std::int64_t step) {
  return config.num_nextn_predict_layers > 0 && mtp_loss_weight(run, step) > 0;
}

// The ranks of dp for which this process computes.
std::int64_t dp_here(const RunConfig& run, const parallel::Member* member) { return member ? 1 : run.parallel.dp; }

std::int64_t batch_bytes(const RunConfig& run, const parallel::Member* member) {
  const std::int64_t most = run.train.global_batch / run.parallel.dp * dp_here(run, member);
  return 2 * most * run.data.seq_len * static_cast<std::int64_t>(sizeof(std::int32_t));
}

bool stands_for_ranks(const RunConfig& run, const parallel::Member* member) { return !member && run.parallel.pp * run.parallel.dp > 1; }

const model::ParameterList& held(const model::ParameterList& all, const parallel::Member* member) {
  return member ? member->part().list : all;
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

bool rechecks(const RunConfig& run, std::int64_t step) { return run.guard.recheck_every > 0 && (step + 1) % run.guard.recheck_every == 0; }

std::int64_t block_rows(std::int64_t rows) { return (rows + parallel::kBlockRows - 1) / parallel::kBlockRows; }

// The sign of a NaN says nothing (the processor's own has one), and nobody should read "-nan".
double nan_without_sign(double x) { return std::isnan(x) ? std::numeric_limits<double>::quiet_NaN() : x; }

double mean(double sum, std::int64_t n) { return n > 0 ? nan_without_sign(sum / static_cast<double>(n)) : 0; }

}  // namespace

MemoryByKind Trainer::memory_needed(const RunConfig& run, const model::ModelConfig& config, const model::ParameterList& list, int threads,
                                    const parallel::Member* member) {
  MemoryByKind need = TrainState::memory_needed(held(list, member), precision_of(run), moments_of(run), member, run.optimizer.ema_decay);
  if (stands_for_ranks(run, member)) need.gradients += in_pages(AsLayout::bytes_needed(run, list));
  const auto transformer = model::Transformer::memory_needed(config, options_of(run, member));
  need.activations = in_pages(transformer.activations);
  need.work = in_pages(transformer.recomputed) + in_pages(transformer.work) + in_pages(transformer.waiting) + in_pages(transformer.slots) +
              in_pages(transformer.tiles) + in_pages(kernels::scratch_bytes(threads));
  need.batch = in_pages(batch_bytes(run, member));
  return need;
}

Trainer::Trainer(const RunConfig& run, const model::ModelConfig& config, const model::ParameterList& list, core::Team& team,
                 const kernels::Table& kernels, TokenSource tokens, core::Spans* spans, parallel::Member* member)
    : run_(run),
      config_(config),
      team_(team),
      kernels_(kernels),
      source_(std::move(tokens)),
      spans_(spans),
      member_(member),
      all_(list),
      exchange_(member && member->mesh().layout().ep > 1 ? std::make_unique<parallel::ExpertExchange>(member->expert_group()) : nullptr),
      state_(held(list, member), precision_of(run), moments_of(run), member, run.optimizer.ema_decay),
      transformer_(config, held(list, member), options_of(run, member, exchange_.get())),
      pipeline_(transformer_, member, cells_of(run, member)),
      as_layout_(stands_for_ranks(run, member) ? std::make_unique<AsLayout>(run_, config_, all_) : nullptr),
      scratch_("scratch", kernels::scratch_bytes(team.threads())),
      batch_arena_("batch", batch_bytes(run, member) + 128) {
  const std::int64_t most = batch_bytes(run, member) / 2 / static_cast<std::int64_t>(sizeof(std::int32_t));
  inputs_ = {batch_arena_.take_array<std::int32_t>(most), static_cast<std::size_t>(most)};
  targets_ = {batch_arena_.take_array<std::int32_t>(most), static_cast<std::size_t>(most)};
  sums_.reset(config_);
  std::int64_t blocks = 0;
  for (const model::Parameter& p : list.parameters) blocks += block_rows(p.rows);
  squares_.resize(static_cast<std::size_t>(blocks));
  if (run.fp8.accumulate_bits != 0 && kernels.name != kernels::reference().name)
    throw core::Error(core::Exit::usage, fmt::format("sums of {} bits on the {} kernels", run.fp8.accumulate_bits, kernels.name),
                      "fp8.accumulate_bits", "set it to 0, or run with FINBACK_ISA=reference, which emulates them slowly");
}

MemoryByKind Trainer::memory() const {
  MemoryByKind now = memory_needed(run_, config_, all_, team_.threads(), member_);
  now.work += in_pages(scratch_.high_water()) - in_pages(scratch_.capacity());
  return now;
}

StepReport Trainer::step() {
  const core::SpanScope span(spans_, "step");
  if (!member_) return compute_step();
  const double begin = core::seconds_now();
  const comm::Times before = member_->world().times();
  StepReport report = compute_step();
  gather_times(begin, before);
  report.rank_times = rank_times_;
  return report;
}

void Trainer::gather_times(double begin, const comm::Times& before) {
  const comm::Times now = member_->world().times();
  RankTime mine{.waiting = now.waiting - before.waiting, .exchange = now.exchange - before.exchange};
  mine.compute = core::seconds_now() - begin - mine.waiting - mine.exchange;
  rank_times_.resize(static_cast<std::size_t>(member_->world().size()));
  member_->world().all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(rank_times_)));
}

StepReport Trainer::compute_step() {
  Counters& counters = state_.counters;
  const std::int64_t step = counters.step;
  const std::int64_t sequences = batch_size(run_, step);
  {
    const core::SpanScope batch(spans_, "batch");
    const std::int64_t sequences_a_rank = sequences / run_.parallel.dp;
    const auto tokens_here = static_cast<std::size_t>(dp_here(run_, member_) * sequences_a_rank * run_.data.seq_len);
    const std::int64_t first = counters.sequences + (member_ ? member_->at().dp * sequences_a_rank : 0);
    source_(first, inputs_.first(tokens_here), targets_.first(tokens_here));
  }

  StepReport report;
  compute_gradients(sequences);
  if (rechecks(run_, step)) recheck(sequences, report);
  report.grad_norm = nan_without_sign(gradient_norm());
  if (!finite(report)) {
    const std::uint64_t first = fingerprint();
    compute_gradients(sequences);
    report.grad_norm = nan_without_sign(gradient_norm());
    report.recomputed = true;
    report.suspects = suspects_of(fingerprint() != first);
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
    if (state_.ema) state_.ema->start();
  } else {
    ++counters.skipped;
  }
  counters.advance(sequences, report.tokens);
  return report;
}

// The ranks that say so; all call it.
std::vector<int> Trainer::suspects_of(bool differs) const {
  std::vector<std::int64_t> of_rank(static_cast<std::size_t>(member_ ? member_->world().size() : 1));
  of_rank[static_cast<std::size_t>(member_ ? member_->world().rank() : 0)] = differs;
  if (member_) member_->world().all_reduce(of_rank);
  std::vector<int> ranks;
  for (std::size_t r = 0; r < of_rank.size(); ++r)
    if (of_rank[r] != 0) ranks.push_back(static_cast<int>(r));
  return ranks;
}

// Computes the step again. What goes on is a result that came out twice on every rank.
void Trainer::recheck(std::int64_t sequences, StepReport& report) {
  const std::uint64_t first = bits_;
  compute_gradients(sequences);
  report.recomputed = true;
  const std::uint64_t second = bits_;
  report.suspects = suspects_of(second != first);
  if (report.suspects.empty()) return;
  compute_gradients(sequences);
  const std::vector<int> without = suspects_of(bits_ != first && bits_ != second);
  if (!without.empty())
    throw core::Error(
        core::Exit::numeric, "a step gave other bits each of the three times it was computed",
        fmt::format("step {}, {}", state_.counters.step + 1, member_ ? member_->world().name(without.front()) : "this machine"),
        "test the memory and the processor there; continue with --resume from the last checkpoint");
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

// gradients and sums_ of the step's whole batch. Each rank of dp has as many sequences, in order. Over ranks a rank's own rows of the
// gradients are the sum, and of sums_ all is.
void Trainer::compute_gradients(std::int64_t sequences) {
  const std::int64_t step = state_.counters.step;
  const int batches = micro_batches(run_, sequences);
  const auto tokens_a_batch = static_cast<std::size_t>(run_.train.micro_batch * run_.data.seq_len);
  const auto batch = [&](int dp, int i) -> model::MicroBatch {
    const std::size_t at = static_cast<std::size_t>(dp * batches + i) * tokens_a_batch;
    return {run_.train.micro_batch, run_.data.seq_len, inputs_.subspan(at, tokens_a_batch), targets_.subspan(at, tokens_a_batch)};
  };
  const auto targets = targets_.first(static_cast<std::size_t>(dp_here(run_, member_) * batches) * tokens_a_batch);
  // Ranks of one pipeline have the same.
  std::int64_t scored = std::count_if(targets.begin(), targets.end(), [](std::int32_t t) { return t >= 0; });
  scored = sum_over_ranks(pipeline_place(member_) == 0 ? scored : 0);
  const double per_token = scored > 0 ? 1 / static_cast<double>(scored) : 0;
  const bool with_mtp = has_mtp(run_, config_, step);
  model::LossWeights scale;
  scale.main = per_token;
  if (with_mtp) scale.mtp = mtp_loss_weight(run_, step) * per_token / static_cast<double>(config_.num_nextn_predict_layers);
  scale.sequence_balance = run_.moe.sequence_balance_alpha / static_cast<double>(sequences);

  const kernels::Context ctx = context();
  if (as_layout_) {
    as_layout_->compute(transformer_, {.ctx = ctx, .weights = state_.weights, .scale = scale, .with_mtp = with_mtp}, batches, batch,
                        state_.gradients, sums_);
    if (rechecks(run_, step)) bits_ = fingerprint();
    return;
  }
  {
    const core::SpanScope span(spans_, "zero_gradients", -1, {.written = bytes_of(state_.gradients)});
    zero(team_, state_.gradients);
  }
  sums_.reset(config_);
  pipeline_.play(
      {ctx, state_.weights, &state_.gradients, scale, with_mtp}, batches, [&](int i) { return batch(0, i); }, sums_);
  if (rechecks(run_, step)) bits_ = fingerprint();
  if (!member_) return;
  member_->world().set_phase("sum of gradients");
  const core::SpanScope span(spans_, "sum_gradients");
  member_->sum_gradients(state_.gradients);
  for (const std::span<double> x : sums_.reals()) member_->world().all_reduce(x);
  for (const std::span<std::int64_t> x : sums_.counts()) member_->world().all_reduce(x);
}

void Trainer::evaluate(const model::MicroBatch& batch, bool with_mtp, model::LossSums& sums) {
  if (member_) member_->world().set_phase("evaluation");
  const kernels::Context ctx = context();
  pipeline_.evaluate({.ctx = ctx, .weights = state_.weights, .with_mtp = with_mtp}, batch, sums);
}

std::int64_t Trainer::sum_over_ranks(std::int64_t x) const {
  if (member_) member_->world().all_reduce(std::span(&x, 1));
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
  for (const model::Parameter& p : all_.parameters) {
    if (next < owned.size() && owned[next].name == p.name) {
      const model::Parameter& piece = owned[next++];
      const auto s = static_cast<std::size_t>(piece.slab);
      if (state_.gradients.slabs[s]) {
        const core::Mat g = state_.own_gradient(s).row_range(piece.row, piece.rows);
        for (std::int64_t row = 0; row < piece.rows; row += parallel::kBlockRows)
          squares_[block + static_cast<std::size_t>(block_rows(piece.first_row + row))] =
              kernels_.sum_squares(ctx, flat(g.row_range(row, std::min(parallel::kBlockRows, piece.rows - row))));
      }
    }
    block += static_cast<std::size_t>(block_rows(p.rows));
  }
  if (member_) member_->world().all_reduce(squares_);
  double total = 0;
  for (const double x : squares_) total += x;
  return std::sqrt(total);
}

void Trainer::update_weights(double scale) {
  const core::SpanScope span(spans_, "update_weights");
  if (member_) member_->world().set_phase("update of weights");
  const kernels::Context ctx = context();
  if (state_.ema) state_.ema->wait();
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
