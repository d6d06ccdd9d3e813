#include "measure/attention.h"

#include "core/arena.h"

#include <vector>

namespace finback::measure {

double flops(const Attention& a) {
  const double length = static_cast<double>(a.length), heads = static_cast<double>(a.sequences * a.shape.heads);
  const double forward = static_cast<double>(a.shape.nope + a.shape.rope + a.shape.value) * length * length * heads;
  return a.backward ? 2.5 * forward : forward;
}

Speed attention(const kernels::Table& kernels, core::Team& team, const Attention& a, double seconds) {
  const kernels::AttentionShape& s = a.shape;
  const std::int64_t tokens = a.sequences * a.length, key = s.nope + s.rope;
  struct Matrices {
    core::Mat q, kv, k_pe, o, d_o, dq, dkv, dk_pe, lse;
  } m;
  const auto place = [&](core::Arena& arena) {
    m.q = arena.take_mat(a.dtype, tokens, s.heads * key);
    m.kv = arena.take_mat(a.dtype, tokens, s.heads * (s.nope + s.value));
    m.k_pe = arena.take_mat(a.dtype, tokens, s.rope);
    m.o = arena.take_mat(a.dtype, tokens, s.heads * s.value);
    m.d_o = arena.take_mat(a.dtype, tokens, s.heads * s.value);
    m.dq = arena.take_mat(a.dtype, tokens, s.heads * key);
    m.dkv = arena.take_mat(a.dtype, tokens, s.heads * (s.nope + s.value));
    m.dk_pe = arena.take_mat(a.dtype, tokens, s.rope);
    m.lse = arena.take_mat(core::DType::f32, tokens, s.heads);
  };
  core::Arena count = core::Arena::counting();
  place(count);
  core::Arena arena("attention", count.high_water());
  place(arena);
  for (const core::Mat& x : {m.q, m.kv, m.k_pe, m.d_o}) fill(x);

  std::vector<kernels::Segment> segments;
  for (std::int64_t i = 0; i < a.sequences; ++i) segments.push_back({.q_row = i * a.length, .rows = a.length, .kv_row = i * a.length});
  core::Arena scratch("scratch", kernels::scratch_bytes(team.threads()));
  const kernels::Context ctx{kernels, team, scratch};
  const auto forward = [&] { kernels.attention_forward(ctx, m.q, m.kv, m.k_pe, segments, s, m.o, m.lse); };
  const auto backward = [&] { kernels.attention_backward(ctx, m.q, m.kv, m.k_pe, m.o, m.lse, m.d_o, segments, s, m.dq, m.dkv, m.dk_pe); };
  const Rate rate = a.dtype == core::DType::bf16 ? Rate::bf16 : Rate::fp32;
  if (!a.backward) return speed_of(team, rate, flops(a), seconds, forward);
  forward();  // o and lse
  return speed_of(team, rate, flops(a), seconds, backward);
}

}  // namespace finback::measure
