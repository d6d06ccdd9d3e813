#include "measure/gemm.h"

#include "core/arena.h"

#include <algorithm>
#include <vector>

namespace finback::measure {

using core::DType;
using core::Mat;

GemmSpeed gemm(const kernels::Table& kernels, core::Team& team, const Gemm& s, double seconds) {
  const std::int64_t size = core::size_of(s.dtype), weights = s.groups * s.n * s.k;
  // Cold: as many copies of the weights as no cache holds, used in turn.
  constexpr std::int64_t kBeyondCaches = std::int64_t{512} << 20;
  const std::int64_t copies = s.cold ? std::max<std::int64_t>(1, kBeyondCaches / (weights * size)) : 1;
  core::Arena arena("gemm", s.m * (s.n + s.k) * size * 2 + weights * (size * copies + 4) + 4096);
  const Mat x = arena.take_mat(s.dtype, s.m, s.k), dy = arena.take_mat(s.dtype, s.m, s.n), y = arena.take_mat(s.dtype, s.m, s.n),
            dx = arena.take_mat(s.dtype, s.m, s.k), w = arena.take_mat(s.dtype, s.groups * s.n * copies, s.k),
            dw = arena.take_mat(DType::f32, s.groups * s.n, s.k);
  for (const Mat& m : {x, dy, y, dx, w, dw}) fill(m);
  core::Arena scratch("scratch", kernels::scratch_bytes(team.threads()));
  const kernels::Context ctx{kernels, team, scratch};
  std::vector<std::int64_t> offsets;
  for (std::int64_t g = 0; g <= s.groups; ++g) offsets.push_back(s.m * g / s.groups);

  std::int64_t turn = 0;
  const auto call = [&] {
    const kernels::WeightView view{static_cast<const std::byte*>(w.data) + turn++ % copies * weights * size, s.dtype, s.groups, s.n, s.k};
    if (s.pass == Pass::forward) kernels.linear_forward(ctx, x, view, offsets, {}, y);
    if (s.pass == Pass::backward_input) kernels.linear_backward_input(ctx, dy, view, offsets, {}, dx);
    if (s.pass == Pass::backward_weight) kernels.linear_backward_weight(ctx, dy, x, offsets, dw);
  };
  const double flops = 2.0 * static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.k);
  const double bytes = s.pass == Pass::backward_weight ? static_cast<double>(s.m * (s.n + s.k) * size + 2 * 4 * weights)
                                                       : static_cast<double>((s.m * (s.n + s.k) + weights) * size);
  const Rate rate = s.dtype == DType::bf16 ? Rate::bf16 : Rate::fp32;

  GemmSpeed speed{speed_of(team, rate, flops, seconds, call)};
  speed.gb_per_s = speed.gflops / flops * bytes;
  return speed;
}

}  // namespace finback::measure
