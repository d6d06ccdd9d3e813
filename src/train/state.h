// All that a run carries from one step to the next: master weights, moments, gate biases and a few counters. It is what a
// checkpoint holds; the rest (gradients, compute copies, activations) is made anew in every step.
#pragma once

#include "core/arena.h"
#include "model/params.h"
#include "model/transformer.h"
#include "parallel/member.h"
#include "train/ema.h"
#include "train/guard.h"
#include "train/run_config.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace finback::train {

struct Counters {
  std::int64_t step = 0;             // steps done; the next one has this number
  std::int64_t optimizer_steps = 0;  // those that changed the weights (AdamW's bias corrections count these)
  std::int64_t sequences = 0;        // taken from the data: the position in it
  std::int64_t tokens = 0;           // consumed
  std::int64_t skipped = 0, rollbacks = 0;
  std::int64_t bad_in_a_row = 0;  // NaN or infinite steps
  SpikeGuard guard;

  // Past a step, whatever came of it.
  void advance(std::int64_t step_sequences, std::int64_t step_tokens) {
    ++step;
    sequences += step_sequences;
    tokens += step_tokens;
  }
};

// Memory by kind, in bytes, in the whole huge pages of which an arena consists.
struct MemoryByKind {
  std::int64_t weights = 0, master = 0, moments = 0, gradients = 0, activations = 0, work = 0, batch = 0, snapshot = 0;
  std::int64_t ema = 0;
  std::int64_t program = 0;  // code, libraries, tokenizer: what the process holds before these are taken
  std::int64_t total() const { return weights + master + moments + gradients + activations + work + batch + snapshot + ema + program; }
};
std::string describe(const MemoryByKind& memory);
std::int64_t in_pages(std::int64_t arena_bytes);
std::int64_t resident_bytes();       // of this process now
std::int64_t peak_resident_bytes();  // the most so far

// The buffers. With fp8 the compute copy of linear layers is codes and scales, quantised from the masters once a step [V3 §3.3.2];
// nothing holds them in bf16. With fp32 (and fp64) the master weights are the compute copy, and `weights` shows them. A gate's bias has one
// copy, in `master`.
class TrainState {
 public:
  // member: over ranks, each of which holds a part of the model and a share of that part's masters and moments; null: one process holds
  // all.
  // ema_decay: of a moving average of the masters; 0: none is kept.
  TrainState(const model::ParameterList& list, const model::Precision& precision, core::DType moments, parallel::Member* member = nullptr,
             double ema_decay = 0);

  static MemoryByKind memory_needed(const model::ParameterList& list, const model::Precision& precision, core::DType moments,
                                    const parallel::Member* member = nullptr, double ema_decay = 0);

  // Initial values, and the compute copy made from them.
  void initialise(const model::ModelConfig& config, std::uint64_t seed, const kernels::Context& ctx);
  // weights = round(master), after the masters were written from outside. Over ranks all call it: each rounds its share.
  void refresh_weights(const kernels::Context& ctx);
  // The rank's own rows of a slab's gradient and of its compute copy.
  core::Mat own_gradient(std::size_t slab) const { return gradients.slabs[slab].row_range(first_row_[slab], master.slabs[slab].rows); }
  const model::WeightRows& own_weights(std::size_t slab) const { return own_[slab]; }
  // Whether a slab's compute copy is codes, which no optimiser writes: they are made from the master afterwards.
  bool has_codes(std::size_t slab) const { return weights.slabs[slab].dtype == core::DType::e4m3; }
  // After the optimiser's step: makes the codes, and gives each rank's share of the compute copy to all.
  void complete_weights(const kernels::Context& ctx);

  const model::ParameterList& list;  // of the gradients and the compute copy
  const model::ParameterList owned;  // of masters and moments: the rank's share, or the same
  Counters counters;
  model::SlabBuffers master, m, v, gradients, weights;
  std::unique_ptr<Ema> ema;           // null: none
  std::int64_t nonfinite_blocks = 0;  // of the compute copy's FP8 blocks: those that hold a NaN or an infinity

 private:
  const model::Precision precision_;
  parallel::Member* const member_;
  std::vector<std::int64_t> first_row_;  // [slabs]
  std::vector<model::WeightRows> own_;   // [slabs] of the compute copy: what the rank's masters become
  core::Arena master_arena_, moments_arena_, gradients_arena_, weights_arena_;
};

// The whole matrix as one row.
inline core::Mat flat(core::Mat x) { return core::mat(x.data, x.dtype, 1, x.size()); }

}  // namespace finback::train
