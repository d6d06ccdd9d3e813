#include "measure/gemm.h"

#include "measure/layer.h"
#include "measure/peer.h"
#include "measure/speed.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace finback::measure {
namespace {

using core::DType;
using Rates = std::vector<double>;

double median_ratio(const Rates& a, const Rates& b) {
  Rates ratios;
  for (std::size_t i = 0; i < a.size(); ++i) ratios.push_back(a[i] / b[i]);
  return median(std::move(ratios));
}

double flops_of(std::int64_t m, const Gemm& s) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(s.n) * static_cast<double>(s.k);
}

bool peer_has(const Gemm& s) { return s.pass == Pass::forward && s.groups == 1 && s.dtype != DType::e4m3; }

// What the peer's program takes (bench/peers/onednn_gemm.cpp).
std::vector<std::string> peer_arguments(const Gemm& s, std::int64_t copies, int threads) {
  return {std::to_string(s.m),          std::to_string(s.n),    std::to_string(s.k),    s.dtype == DType::bf16 ? "bf16" : "fp32",
          s.packed ? "packed" : "rows", std::to_string(copies), std::to_string(threads)};
}

}  // namespace

GemmSpeed gemm(const kernels::Table& kernels, core::Team& team, const Gemm& shape, const std::string& peer_program, double seconds) {
  Gemm s = shape;
  if (s.pass != Pass::forward) s.packed = false;
  constexpr double kBurst = 0.01, kPatience = 60;
  Layer layer(kernels, team, s);
  const Traffic traffic = layer.traffic();
  TrafficCeiling moving(team, layer.all_traffic());
  const Rate arithmetic = s.dtype == DType::f32 ? Rate::fp32 : Rate::bf16;
  const double flops = flops_of(s.m, s), bytes = static_cast<double>(traffic.moved());
  Peer peer(peer_has(s) ? peer_program : "", peer_arguments(s, layer.copies(), team.threads()), kPatience);

  std::vector<Contender> contenders{
      repeated(flops, [&] { layer.call(); }),
      [&](double burst) { return ceiling_of(team, arithmetic, burst); },
      [&](double burst) { return moving.rate(burst); },
  };
  if (s.groups > 1) contenders.push_back(repeated(flops_of(layer.dense_rows(), s), [&] { layer.call_dense(); }));
  if (peer.present()) contenders.push_back([&](double burst) { return peer.run(burst, kPatience).value_or(NAN); });
  const std::vector<Rates> rates = in_turn(contenders, kBurst, seconds);

  const Rates &own = rates[0], &ceiling = rates[1], &bandwidth = rates[2];
  Rates roof;
  for (std::size_t i = 0; i < own.size(); ++i) roof.push_back(std::min(ceiling[i], bandwidth[i] * flops / bytes));
  GemmSpeed speed;
  speed.rounds = static_cast<std::int64_t>(own.size());
  speed.gflops = median(own);
  speed.best_gflops = *std::max_element(own.begin(), own.end());
  speed.seconds = flops / speed.gflops * 1e-9;
  speed.ceiling_gflops = median(ceiling);
  speed.share_of_ceiling = median_ratio(own, ceiling);
  speed.gb_per_s = speed.gflops / flops * bytes;
  speed.bandwidth_gb_per_s = median(bandwidth);
  speed.level = moving.level();
  speed.share_of_bandwidth = median_ratio(own, bandwidth) / flops * bytes;
  speed.share_of_roof = median_ratio(own, roof);
  if (s.groups > 1) {
    speed.dense_gflops = median(rates[3]);
    speed.share_of_dense = median_ratio(own, rates[3]);
  }
  speed.peer = peer.name();
  if (peer.present()) {  // still: it answered every time
    speed.peer_gflops = median(rates.back());
    speed.ratio_to_peer = median_ratio(own, rates.back());
  }
  return speed;
}

std::vector<Gemm> gemm_suite(DType dtype) {
  std::vector<Gemm> suite;
  const auto add = [&](std::int64_t m, std::int64_t n, std::int64_t k, bool cold = false) {
    suite.push_back({.m = m, .n = n, .k = k, .dtype = dtype, .cold = cold});
  };
  add(1024, 1024, 1024), add(2048, 2048, 2048), add(2048, 7168, 2048), add(2048, 2048, 7168);
  for (const std::int64_t m : {512, 64, 16}) add(m, 1408, 2048);
  for (const std::int64_t m : {1, 4, 8}) add(m, 2048, 2048);
  for (const std::int64_t m : {1, 8}) add(m, 7168, 2048);
  for (const std::int64_t m : {1, 4, 8}) add(m, 7168, 2048, /*cold=*/true);
  suite.push_back({.m = std::int64_t{64} * 64, .n = 1408, .k = 2048, .groups = 64, .dtype = dtype, .uneven = true});
  return suite;
}

}  // namespace finback::measure
