#include "measure/kernel_cases.h"

#include "measure/speed.h"
#include "model/head.h"
#include "model/moe.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

namespace finback::measure {
namespace {

using core::DType;
using core::Mat;
using kernels::Context;

// Tokens go to experts as evenly as numbers do that have nothing to do with each other.
std::int64_t scatter(std::int64_t i) { return i * 2654435761 % 4294967291; }

class Cases {
 public:
  Cases(core::Arena& arena, const model::ModelConfig& config, model::Precision precision, std::int64_t sequences, std::int64_t length)
      : arena_(arena),
        m_(config),
        storage_(precision.storage),
        accumulator_(precision.accumulator),
        precision_(precision),
        sequences_(sequences),
        length_(length),
        T_(sequences * length),
        D_(config.hidden_size) {}

  std::vector<KernelCase> all() {
    attention();
    norm();
    rope();
    if (m_.n_routed_experts > 0) {
      swiglu();
      gate();
      permutation();
    }
    embedding();
    loss();
    optimiser();
    helpers();
    return std::move(cases_);
  }

 private:
  Mat take(DType dtype, std::int64_t rows, std::int64_t cols) {
    const Mat m = arena_.take_mat(dtype, rows, cols);
    if (m && dtype != DType::i32) fill(m);
    return m;
  }
  Mat numbers(std::int64_t rows, std::int64_t cols, const std::function<std::int64_t(std::int64_t)>& number) {
    const Mat m = take(DType::i32, rows, cols);
    for (std::int64_t i = 0; m && i < m.size(); ++i) m.row<std::int32_t>(0)[i] = static_cast<std::int32_t>(number(i));
    return m;
  }
  static std::span<const std::int32_t> span(const Mat& m) {
    return {static_cast<const std::int32_t*>(m.data), static_cast<std::size_t>(m.size())};
  }
  void add(std::string name, std::string shape, std::function<void(const Context&)> call, Mat in_place = {}, std::int64_t count = 1) {
    cases_.push_back({std::move(name), std::move(shape), std::move(call), in_place, count});
  }

  void attention() {
    const kernels::AttentionShape s = m_.attention_shape();
    const std::int64_t key = s.nope + s.rope;
    const Mat q = take(storage_, T_, s.heads * key), kv = take(storage_, T_, s.heads * (s.nope + s.value)),
              k_pe = take(storage_, T_, s.rope), o = take(storage_, T_, s.heads * s.value), d_o = take(storage_, T_, s.heads * s.value),
              lse = take(accumulator_, T_, s.heads), dq = take(storage_, T_, q.cols), dkv = take(storage_, T_, kv.cols),
              dk_pe = take(storage_, T_, s.rope);
    const auto segments = std::make_shared<std::vector<kernels::Segment>>();
    for (std::int64_t i = 0; i < sequences_; ++i) segments->push_back({.q_row = i * length_, .rows = length_, .kv_row = i * length_});
    const std::string shape =
        fmt::format("{} x {} tokens, {} heads of {} + {} and {}", sequences_, length_, s.heads, s.nope, s.rope, s.value);
    add("attention_forward", shape, [=](const Context& ctx) { ctx.kernels.attention_forward(ctx, q, kv, k_pe, *segments, s, o, lse); });
    // What a generated token costs: the longest context of these rows.
    const auto last = std::make_shared<std::vector<kernels::Segment>>(1, kernels::Segment{.rows = 1, .first_position = T_ - 1});
    add("attention_forward", fmt::format("1 token after {}, {} heads of {} + {} and {}", T_ - 1, s.heads, s.nope, s.rope, s.value),
        [=](const Context& ctx) {
          ctx.kernels.attention_forward(ctx, q.row_range(0, 1), kv, k_pe, *last, s, o.row_range(0, 1), lse.row_range(0, 1));
        });
    add("attention_backward", shape,
        [=](const Context& ctx) { ctx.kernels.attention_backward(ctx, q, kv, k_pe, o, lse, d_o, *segments, s, dq, dkv, dk_pe); });
    latent_attention(q);
  }

  // The absorbed form of the same, over pages.
  void latent_attention(const Mat& q) {
    const kernels::AttentionShape s = m_.attention_shape();
    const std::int64_t C = m_.kv_lora_rank, pages = (length_ + kernels::kPage - 1) / kernels::kPage;
    const Mat q_latent = take(storage_, T_, s.heads * C), o = take(storage_, T_, s.heads * C),
              cache = take(storage_, sequences_ * pages * kernels::kPage, C + s.rope),
              table = numbers(1, sequences_ * pages, [](std::int64_t i) { return i; });
    const auto segments = std::make_shared<std::vector<kernels::PagedSegment>>();
    for (std::int64_t i = 0; i < sequences_; ++i)
      segments->push_back({.q_row = i * length_, .rows = length_, .pages = static_cast<const std::int32_t*>(table.data) + i * pages});
    add("latent_attention", fmt::format("{} x {} tokens, {} heads of {} + {}", sequences_, length_, s.heads, C, s.rope),
        [=](const Context& ctx) { ctx.kernels.latent_attention(ctx, q_latent, q, cache, *segments, s, o); });
    // A token of each sequence, at its end.
    const auto last = std::make_shared<std::vector<kernels::PagedSegment>>(*segments);
    for (std::size_t i = 0; i < last->size(); ++i) (*last)[i] = {static_cast<std::int64_t>(i), 1, length_ - 1, (*segments)[i].pages};
    add("latent_attention", fmt::format("{} x 1 token after {}, {} heads of {} + {}", sequences_, length_ - 1, s.heads, C, s.rope),
        [=, n = sequences_](const Context& ctx) {
          ctx.kernels.latent_attention(ctx, q_latent.row_range(0, n), q.row_range(0, n), cache, *last, s, o.row_range(0, n));
        });
  }

  void norm() {
    const Mat x = take(storage_, T_, D_), dy = take(storage_, T_, D_), y = take(storage_, T_, D_), addend = take(storage_, T_, D_),
              w = take(storage_, 1, D_), dw = take(accumulator_, 1, D_);
    const double eps = m_.rms_norm_eps;
    const std::string shape = fmt::format("[{}, {}]", T_, D_);
    add("rms_norm_forward", shape, [=](const Context& ctx) { ctx.kernels.rms_norm_forward(ctx, x, w, eps, y); });
    add("rms_norm_backward_input", shape, [=](const Context& ctx) { ctx.kernels.rms_norm_backward_input(ctx, dy, x, w, eps, addend, y); });
    add("rms_norm_backward_weight", shape, [=](const Context& ctx) { ctx.kernels.rms_norm_backward_weight(ctx, dy, x, eps, dw); });
  }

  void rope() {
    const std::int64_t heads = m_.num_attention_heads, width = m_.qk_head_dim(), nope = m_.qk_nope_head_dim;
    const Mat q = take(storage_, T_, heads * width), cos_sin = take(accumulator_, length_, m_.qk_rope_head_dim);
    const Mat positions = numbers(1, T_, [&](std::int64_t i) { return i % length_; });
    add(
        "rope", fmt::format("[{}, {} heads of {}]", T_, heads, m_.qk_rope_head_dim),
        [=](const Context& ctx) {
          ctx.kernels.rope(ctx, q.columns(nope, q.cols - nope), heads, width, cos_sin, span(positions), /*inverse=*/false);
        },
        Mat{q.data, q.dtype, T_, heads * m_.qk_rope_head_dim, heads * m_.qk_rope_head_dim});
  }

  void swiglu() {
    const std::int64_t S = T_ * m_.num_experts_per_tok, F = m_.moe_intermediate_size;
    const Mat gu = take(storage_, S, 2 * F), weight = take(accumulator_, 1, S), a = take(storage_, S, F), da = take(storage_, S, F),
              dgu = take(storage_, S, 2 * F), dweight = take(accumulator_, 1, S);
    const std::string shape = fmt::format("[{}, 2 x {}]", S, F);
    add("swiglu_forward", shape, [=](const Context& ctx) { ctx.kernels.swiglu_forward(ctx, gu, weight, a); });
    add("swiglu_backward", shape, [=](const Context& ctx) { ctx.kernels.swiglu_backward(ctx, da, gu, weight, dgu, dweight); });
  }

  void gate() {
    const std::int64_t E = m_.n_routed_experts, K = m_.num_experts_per_tok;
    const kernels::GateShape s = m_.gate_shape();
    const Mat logits = take(accumulator_, T_, E), bias = take(DType::f32, 1, E), ids = take(DType::i32, T_, K),
              weights = take(accumulator_, T_, K), f = take(accumulator_, sequences_, E), dweights = take(accumulator_, T_, K),
              dlogits = take(storage_, T_, E);
    const std::int64_t sequences = sequences_;
    const std::string shape = fmt::format("[{}, {} of {} experts]", T_, K, E);
    add("gate_forward", shape, [=](const Context& ctx) { ctx.kernels.gate_forward(ctx, logits, bias, s, ids, weights); });
    add("balance_forward", shape, [=](const Context& ctx) { ctx.kernels.balance_forward(ctx, logits, s, sequences, f); });
    const Mat chosen = numbers(T_, K, [&](std::int64_t i) { return i % K * (E / K); });
    add("gate_backward", shape,
        [=](const Context& ctx) { ctx.kernels.gate_backward(ctx, logits, chosen, dweights, s, sequences, f, 1e-4, dlogits); });
  }

  void permutation() {
    const std::int64_t E = m_.n_routed_experts, K = m_.num_experts_per_tok, S = T_ * K;
    model::Routing routing;
    routing.take({arena_, arena_, arena_, precision_, model::ActivationStorage::full}, m_, T_);
    if (!arena_.is_counting()) {
      // K experts in each token's ascending order: one of each of K equal parts of them.
      auto* ids = routing.ids_TK.row<std::int32_t>(0);
      for (std::int64_t i = 0; i < S; ++i) ids[i] = static_cast<std::int32_t>(i % K * (E / K) + scatter(i) % (E / K));
      fill(routing.weights_TK);
      model::assign_slots(routing, E);
    }
    const Mat x = take(storage_, T_, D_), slots = take(storage_, S, D_), addend = take(storage_, T_, D_), y = take(storage_, T_, D_);
    const std::int64_t per_group = E / m_.n_group;
    add("gather_rows", fmt::format("[{}, {}] from {} rows", S, D_, T_),
        [=](const Context& ctx) { ctx.kernels.gather_rows(ctx, x, routing.slot_token, slots); });
    add("combine_rows", fmt::format("[{}, {}] of {} rows each", T_, D_, K),
        [=](const Context& ctx) { ctx.kernels.combine_rows(ctx, slots, routing.ids_TK, routing.token_slots_TK, per_group, addend, y); });
  }

  void embedding() {
    const std::int64_t W = m_.vocab_size;
    const Mat table = take(storage_, W, D_), dtable = take(accumulator_, W, D_), x = take(storage_, T_, D_);
    const Mat ids = numbers(1, T_, [&](std::int64_t i) { return scatter(i) % W; });
    const std::string shape = fmt::format("[{}, {}] of {} tokens", T_, D_, W);
    add("embedding_forward", shape, [=](const Context& ctx) { ctx.kernels.embedding_forward(ctx, table, span(ids), x); });
    add(
        "embedding_backward", shape, [=](const Context& ctx) { ctx.kernels.embedding_backward(ctx, x, span(ids), dtable); },
        Mat{dtable.data, dtable.dtype, T_, D_, D_});
  }

  void loss() {
    model::HeadBuffers head;
    head.take(arena_, m_, precision_, T_, /*backward=*/true);
    const Mat logits = head.logits, dlogits = head.dlogits.row_range(0, logits.rows);
    if (logits) fill(logits);
    const Mat targets = numbers(1, logits.rows, [&](std::int64_t i) { return scatter(i) % m_.vocab_size; });
    const Mat loss = head.loss_1T.columns(0, logits.rows), best = head.best_1T.columns(0, logits.rows);
    add("cross_entropy", fmt::format("[{}, {}]", logits.rows, logits.cols),
        [=](const Context& ctx) { ctx.kernels.cross_entropy(ctx, logits, span(targets), 1e-3, loss, best, dlogits); });
  }

  // The largest slab of the model's parameters: the experts' gate and up projections of a layer, or the head.
  void optimiser() {
    const std::int64_t n = std::max(2 * m_.n_routed_experts * m_.moe_intermediate_size, m_.vocab_size) * D_;
    const Mat gradient = take(accumulator_, 1, n), master = take(accumulator_, 1, n), m = take(DType::bf16, 1, n),
              v = take(DType::bf16, 1, n), weight = storage_ == accumulator_ ? master : take(storage_, 1, n);
    const std::string shape = fmt::format("{:.1f} million", static_cast<double>(n) / 1e6);
    const kernels::AdamW options{.lr = 1e-4, .weight_decay = 0.1};
    // master, m and v: as many bytes as two arrays of the master's.
    add(
        "adamw", shape, [=](const Context& ctx) { ctx.kernels.adamw(ctx, gradient, options, master, m, v, weight); }, master, 2);
    add("sum_squares", shape, [=](const Context& ctx) { ctx.kernels.sum_squares(ctx, gradient); });
    if (storage_ != accumulator_) add("convert", shape, [=](const Context& ctx) { ctx.kernels.convert(ctx, master, weight); });
  }

  void helpers() {
    const Mat a = take(storage_, T_, D_), b = take(storage_, T_, D_);
    add(
        "add", fmt::format("[{}, {}]", T_, D_), [=](const Context& ctx) { ctx.kernels.add(ctx, a, b, a); }, a);
  }

  core::Arena& arena_;
  const model::ModelConfig& m_;
  const DType storage_, accumulator_;
  const model::Precision precision_;
  const std::int64_t sequences_, length_, T_, D_;
  std::vector<KernelCase> cases_;
};

}  // namespace

std::vector<KernelCase> kernel_cases(core::Arena& arena, const model::ModelConfig& config, model::Precision precision,
                                     std::int64_t sequences, std::int64_t length) {
  return Cases(arena, config, precision, sequences, length).all();
}

}  // namespace finback::measure
