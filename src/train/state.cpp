#include "train/state.h"

#include "core/error.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>

namespace finback::train {
namespace {

// A separate compute copy is needed only where it has a narrower type than the masters, or more rows.
bool has_copy(const model::Precision& p, const parallel::Zero* zero) { return p.storage != p.accumulator || zero; }

// Bytes of an arena that `take` fills.
template <class Take>
std::int64_t counted(Take&& take) {
  core::Arena count = core::Arena::counting();
  take(count);
  return count.high_water();
}

}  // namespace

std::int64_t in_pages(std::int64_t arena_bytes) {
  constexpr std::int64_t kHugePage = 2 << 20;
  return (arena_bytes + kHugePage - 1) / kHugePage * kHugePage;
}

std::string describe(const MemoryByKind& memory) {
  std::string out;
  const auto line = [&](std::string_view kind, std::int64_t bytes, std::string_view meaning) {
    out += fmt::format("  {:<12} {:>10.1f} MiB  {}\n", kind, static_cast<double>(bytes) / (1 << 20), meaning);
  };
  line("weights", memory.weights, "compute copy (none where the masters serve)");
  line("master", memory.master, "FP32 weights that the optimiser moves");
  line("moments", memory.moments, "of AdamW");
  line("gradients", memory.gradients, "FP32, summed over a step's micro-batches");
  line("activations", memory.activations, "kept from forward to backward, of one micro-batch");
  line("work", memory.work, "temporaries of a layer, the loss and the kernels");
  line("batch", memory.batch, "tokens of a step");
  line("snapshot", memory.snapshot, "what a checkpoint is written from while training goes on");
  line("program", memory.program, "code, libraries, tokenizer");
  line("total", memory.total(), "");
  return out;
}

std::int64_t resident_bytes() {
  std::int64_t pages = 0, resident = 0;
  if (std::FILE* f = std::fopen("/proc/self/statm", "re")) {
    if (std::fscanf(f, "%" SCNd64 " %" SCNd64, &pages, &resident) != 2) resident = 0;
    std::fclose(f);
  }
  return resident * ::sysconf(_SC_PAGESIZE);
}

std::int64_t peak_resident_bytes() {
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{usage.ru_maxrss} * 1024;
}

namespace {

struct Sizes {
  std::int64_t weights, master, moments, gradients;
};

model::ParameterList owned_of(const model::ParameterList& list, const parallel::Zero* zero) {
  return zero ? zero->shards().owned(list, zero->ranks().rank()) : list;
}

Sizes sizes_of(const model::ParameterList& list, const model::ParameterList& owned, const model::Precision& precision, core::DType moments,
               bool copy) {
  return {.weights = copy ? counted([&](core::Arena& a) { model::take_weights(a, list, precision); }) : 0,
          .master = counted([&](core::Arena& a) { model::take_slabs(a, owned, precision.accumulator); }),
          .moments = 2 * counted([&](core::Arena& a) { model::take_slabs(a, owned, moments, /*trained_only=*/true); }),
          .gradients = counted([&](core::Arena& a) { model::take_slabs(a, list, precision.accumulator, /*trained_only=*/true); })};
}

}  // namespace

MemoryByKind TrainState::memory_needed(const model::ParameterList& list, const model::Precision& precision, core::DType moments,
                                       const parallel::Zero* zero) {
  const Sizes s = sizes_of(list, owned_of(list, zero), precision, moments, has_copy(precision, zero));
  return {.weights = in_pages(s.weights), .master = in_pages(s.master), .moments = in_pages(s.moments), .gradients = in_pages(s.gradients)};
}

TrainState::TrainState(const model::ParameterList& parameters, const model::Precision& precision, core::DType moments, parallel::Zero* zero)
    : list(parameters),
      owned(owned_of(list, zero)),
      precision_(precision),
      zero_(zero),
      master_arena_("master", sizes_of(list, owned, precision, moments, has_copy(precision, zero)).master),
      moments_arena_("moments", sizes_of(list, owned, precision, moments, has_copy(precision, zero)).moments),
      gradients_arena_("gradients", sizes_of(list, owned, precision, moments, has_copy(precision, zero)).gradients),
      weights_arena_("weights", sizes_of(list, owned, precision, moments, has_copy(precision, zero)).weights) {
  master = model::take_slabs(master_arena_, owned, precision.accumulator);
  m = model::take_slabs(moments_arena_, owned, moments, /*trained_only=*/true);
  v = model::take_slabs(moments_arena_, owned, moments, /*trained_only=*/true);
  gradients = model::take_slabs(gradients_arena_, list, precision.accumulator, /*trained_only=*/true);
  weights = has_copy(precision, zero) ? model::take_weights(weights_arena_, list, precision) : master;
  for (std::size_t s = 0; s < list.slabs.size(); ++s) {
    if (list.slabs[s].role == model::Role::gate_bias) weights.slabs[s] = master.slabs[s];
    first_row_.push_back(zero ? zero->shards().begin(s, zero->ranks().rank()) : 0);
    own_.push_back(model::weight_rows(weights, s, first_row_[s], first_row_[s] + master.slabs[s].rows));
  }
}

void TrainState::initialise(const model::ModelConfig& config, std::uint64_t seed, const kernels::Context& ctx) {
  model::initialise(config, owned, seed, ctx.team, master);
  refresh_weights(ctx);
}

void TrainState::refresh_weights(const kernels::Context& ctx) {
  for (std::size_t s = 0; s < list.slabs.size(); ++s)
    if (!has_codes(s)) model::round_weights(ctx, master.slabs[s], precision_, own_[s]);
  complete_weights(ctx);
}

void TrainState::complete_weights(const kernels::Context& ctx) {
  nonfinite_blocks = 0;
  for (std::size_t s = 0; s < list.slabs.size(); ++s)
    if (has_codes(s)) nonfinite_blocks += model::round_weights(ctx, master.slabs[s], precision_, own_[s]);
  if (!zero_) return;
  zero_->gather_weights(weights);
  zero_->ranks().all_reduce(std::span(&nonfinite_blocks, 1));
}

}  // namespace finback::train
