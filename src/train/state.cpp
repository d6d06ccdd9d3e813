#include "train/state.h"

#include "core/error.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>

namespace finback::train {
namespace {

// A separate compute copy is needed only where it has a narrower type than the masters, or more rows.
bool has_copy(const model::Slab& slab, const model::Precision& p, const parallel::Member* member) {
  return p.storage != p.accumulator || (member && member->part().holders(slab).size() > 1);
}
model::ParameterList copied_of(const model::ParameterList& list, const model::Precision& p, const parallel::Member* member) {
  model::ParameterList copied;
  for (const model::Slab& slab : list.slabs)
    if (has_copy(slab, p, member)) copied.slabs.push_back(slab);
  return copied;
}

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
    if (bytes == 0) return;
    out += fmt::format("  {:<12} {:>10.1f} MiB  {}\n", kind, static_cast<double>(bytes) / (1 << 20), meaning);
  };
  line("weights", memory.weights, "compute copy");
  line("master", memory.master, "FP32 weights that the optimiser moves");
  line("moments", memory.moments, "of AdamW");
  line("gradients", memory.gradients, "FP32, summed over a step's micro-batches");
  line("activations", memory.activations, "kept from forward to backward");
  line("work", memory.work, "temporaries of a layer, the loss and the kernels");
  line("batch", memory.batch, "tokens of a step");
  line("snapshot", memory.snapshot, "what a checkpoint is written from while training goes on");
  line("ema", memory.ema, "moving average of the weights");
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

model::ParameterList owned_of(const model::ParameterList& list, const parallel::Member* member) { return member ? member->owned() : list; }

Sizes sizes_of(const model::ParameterList& list, const model::ParameterList& owned, const model::Precision& precision, core::DType moments,
               const parallel::Member* member) {
  return {.weights = counted([&](core::Arena& a) { model::take_weights(a, copied_of(list, precision, member), precision); }),
          .master = counted([&](core::Arena& a) { model::take_slabs(a, owned, precision.accumulator); }),
          .moments = 2 * counted([&](core::Arena& a) { model::take_slabs(a, owned, moments, /*trained_only=*/true); }),
          .gradients = counted([&](core::Arena& a) { model::take_slabs(a, list, precision.accumulator, /*trained_only=*/true); })};
}

}  // namespace

MemoryByKind TrainState::memory_needed(const model::ParameterList& list, const model::Precision& precision, core::DType moments,
                                       const parallel::Member* member, double ema_decay) {
  const Sizes s = sizes_of(list, owned_of(list, member), precision, moments, member);
  return {.weights = in_pages(s.weights),
          .master = in_pages(s.master),
          .moments = in_pages(s.moments),
          .gradients = in_pages(s.gradients),
          .ema = ema_decay > 0 ? in_pages(Ema::bytes_needed(owned_of(list, member), precision.accumulator)) : 0};
}

TrainState::TrainState(const model::ParameterList& parameters, const model::Precision& precision, core::DType moments,
                       parallel::Member* member, double ema_decay)
    : list(parameters),
      owned(owned_of(list, member)),
      precision_(precision),
      member_(member),
      master_arena_("master", sizes_of(list, owned, precision, moments, member).master),
      moments_arena_("moments", sizes_of(list, owned, precision, moments, member).moments),
      gradients_arena_("gradients", sizes_of(list, owned, precision, moments, member).gradients),
      weights_arena_("weights", sizes_of(list, owned, precision, moments, member).weights) {
  master = model::take_slabs(master_arena_, owned, precision.accumulator);
  m = model::take_slabs(moments_arena_, owned, moments, /*trained_only=*/true);
  v = model::take_slabs(moments_arena_, owned, moments, /*trained_only=*/true);
  gradients = model::take_slabs(gradients_arena_, list, precision.accumulator, /*trained_only=*/true);
  const model::SlabBuffers copies = model::take_weights(weights_arena_, copied_of(list, precision, member), precision);
  weights = {.slabs = {}, .scales = copies.scales, .parts = copies.parts, .packed = {}};
  auto copy = copies.slabs.begin();
  if (ema_decay > 0) ema = std::make_unique<Ema>(owned, master, ema_decay);
  for (std::size_t s = 0; s < list.slabs.size(); ++s) {
    weights.slabs.push_back(has_copy(list.slabs[s], precision, member) ? *copy++ : master.slabs[s]);
    if (list.slabs[s].role == model::Role::gate_bias) weights.slabs[s] = master.slabs[s];
    first_row_.push_back(member ? member->first_row(s) : 0);
    own_.push_back(model::weight_rows(weights, s, first_row_[s], first_row_[s] + master.slabs[s].rows));
  }
}

void TrainState::initialise(const model::ModelConfig& config, std::uint64_t seed, const kernels::Context& ctx) {
  if (ema) ema->wait();
  model::initialise(config, owned, seed, ctx.team, master);
  if (ema) ema->restart();
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
  if (!member_) return;
  member_->gather_weights(weights);
  member_->world().all_reduce(std::span(&nonfinite_blocks, 1));
}

}  // namespace finback::train
