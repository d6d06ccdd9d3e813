#include "measure/kernel_bench.h"

#include "core/clock.h"
#include "core/error.h"
#include "kernels/traced.h"
#include "measure/ceiling.h"
#include "measure/kernel_cases.h"
#include "model/transformer.h"

#include <algorithm>
#include <optional>

namespace finback::measure {
namespace {

// What a call does, from the span that the traced table makes of it.
core::Work work_of(const KernelCase& k, const kernels::Context& plain) {
  const kernels::TracedTable traced(plain.kernels);
  core::Spans spans(1);
  k.call({traced, plain.team, plain.scratch, &spans});
  return spans[0].work;
}

Traffic traffic_of(const KernelCase& k, const core::Work& work) {
  const std::int64_t updated = k.in_place_count * k.in_place.bytes();
  return {static_cast<std::int64_t>(work.read) - updated, updated, static_cast<std::int64_t>(work.written) - updated};
}

KernelSpeed measure_case(const KernelCase& k, const kernels::Context& ctx, Rate arithmetic, double seconds) {
  const core::Work work = work_of(k, ctx);
  const Traffic traffic = traffic_of(k, work);
  TrafficCeiling moving(ctx.team, traffic);
  const double bytes = static_cast<double>(traffic.moved());

  // In turns, each long enough that the caches hold its own operands and no longer the other's.
  const double begin = core::seconds_now();
  k.call(ctx);
  const double turn = std::max(0.005, 3 * (core::seconds_now() - begin));
  double calls = 0, moved = 0, operations = 0;  // 10^9 a second
  const double end = begin + seconds;
  do {
    calls = std::max(calls, best_rate(turn, [&] { return k.call(ctx), 1.0; }));
    moved = std::max(moved, moving.rate(turn));
    if (work.flops > 0) operations = std::max(operations, ceiling_of(ctx.team, arithmetic, turn));
  } while (core::seconds_now() < end);

  KernelSpeed s{k.name, k.shape, ctx.team.threads()};
  s.seconds = 1e-9 / calls;
  s.mib = static_cast<double>(traffic.footprint()) / (1 << 20);
  const bool by_arithmetic = work.flops > 0 && work.flops / operations > bytes / moved;
  s.ceiling = by_arithmetic ? arithmetic == Rate::bf16 ? "bf16" : "fp32" : moving.level();
  s.rate = calls * (by_arithmetic ? work.flops : bytes);
  s.ceiling_rate = by_arithmetic ? operations : moved;
  return s;
}

}  // namespace

std::vector<KernelSpeed> bench_kernels(const KernelBenchOptions& o) {
  const model::ModelConfig config = model::read_config(o.model);
  const model::Precision precision = model::precision_of(o.precision);
  core::Arena count = core::Arena::counting();
  kernel_cases(count, config, precision, o.batch, o.seq_len);
  core::Arena arena("operands", count.high_water());
  std::vector<KernelCase> cases = kernel_cases(arena, config, precision, o.batch, o.seq_len);
  std::erase_if(cases, [&](const KernelCase& k) { return k.name.find(o.only) == std::string::npos; });
  if (cases.empty()) throw core::Error(core::Exit::usage, "no kernel of that name", o.only, "leave --only out to see all names");

  std::vector<KernelSpeed> speeds;
  for (const KernelCase& k : cases)
    for (const int threads : o.threads) {
      core::Team team(threads);
      core::Arena scratch("scratch", kernels::scratch_bytes(threads));
      speeds.push_back(measure_case(k, {kernels::best(), team, scratch}, o.precision == "bf16" ? Rate::bf16 : Rate::fp32, o.seconds));
    }
  return speeds;
}

}  // namespace finback::measure
