// Causal multi-head attention in the plain form of MLA (DeepSeek-V2, arXiv 2405.04434, §2.1): a head's key is its own k_nope
// beside the rope key k_pe that all heads share; o = softmax(scale · q·k) · v over the keys up to the query's position.
#include "kernels/cpu/entries.h"
#include "kernels/reference/access.h"

#include <algorithm>
#include <cmath>

namespace finback::kernels::reference_kernels {
namespace {

// Head h of the operands, by row and element.
struct Head {
  const ConstMat &q, &kv, &k_pe;
  const AttentionShape& shape;
  std::int64_t h;

  std::int64_t key_size() const { return shape.nope + shape.rope; }
  double query(std::int64_t row, std::int64_t d) const { return get(q, row, h * key_size() + d); }
  double key(std::int64_t row, std::int64_t d) const {
    return d < shape.nope ? get(kv, row, h * (shape.nope + shape.value) + d) : get(k_pe, row, d - shape.nope);
  }
  double value(std::int64_t row, std::int64_t d) const { return get(kv, row, h * (shape.nope + shape.value) + shape.nope + d); }
  double score(std::int64_t q_row, std::int64_t kv_row) const {
    double sum = 0;
    for (std::int64_t d = 0; d < key_size(); ++d) sum += query(q_row, d) * key(kv_row, d);
    return shape.scale * sum;
  }
};

void attention_forward(const Context& ctx, ConstMat q, ConstMat kv, ConstMat k_pe, std::span<const Segment> segments,
                       const AttentionShape& shape, Mat o, Mat lse) {
  for (const Segment& s : segments)
    for (std::int64_t i = 0; i < s.rows; ++i)
      for (std::int64_t h = 0; h < shape.heads; ++h) {
        const core::ArenaScope scope(ctx.scratch);
        const Head head{q, kv, k_pe, shape, h};
        const std::int64_t row = s.q_row + i, keys = s.first_position + i + 1;
        double* p = ctx.scratch.take_array<double>(keys);
        for (std::int64_t j = 0; j < keys; ++j) p[j] = head.score(row, s.kv_row + j);
        const double top = *std::max_element(p, p + keys);
        double sum = 0;
        for (std::int64_t j = 0; j < keys; ++j) sum += p[j] = std::exp(p[j] - top);
        put(lse, row, h, top + std::log(sum));
        for (std::int64_t d = 0; d < shape.value; ++d) {
          double out = 0;
          for (std::int64_t j = 0; j < keys; ++j) out += p[j] * head.value(s.kv_row + j, d);
          put(o, row, h * shape.value + d, out / sum);
        }
      }
}

// With p_ij = exp(score − lse) and ds_ij = p_ij · (do_i·v_j − do_i·o_i):
//   dv_j = Σ_i p_ij do_i    dk_j = scale · Σ_i ds_ij q_i    dq_i = scale · Σ_j ds_ij k_j,
// and dk_pe is the rope part of dk summed over the heads.
void attention_backward(const Context& ctx, ConstMat q, ConstMat kv, ConstMat k_pe, ConstMat o, ConstMat lse, ConstMat d_o,
                        std::span<const Segment> segments, const AttentionShape& shape, Mat dq, Mat dkv, Mat dk_pe) {
  const std::int64_t key_size = shape.nope + shape.rope, kv_size = shape.nope + shape.value;
  for (const Segment& s : segments) {
    FB_CHECK(s.first_position == 0, "first_position {}: backward needs all keys of a segment", s.first_position);
    const core::ArenaScope segment_scope(ctx.scratch);
    const Mat dk_pe_sum = ctx.scratch.take_mat(DType::f64, s.rows, shape.rope);
    std::fill_n(dk_pe_sum.row<double>(0), dk_pe_sum.size(), 0.0);
    for (std::int64_t h = 0; h < shape.heads; ++h) {
      const core::ArenaScope head_scope(ctx.scratch);
      const Head head{q, kv, k_pe, shape, h};
      const Mat dk = ctx.scratch.take_mat(DType::f64, s.rows, key_size);
      const Mat dv = ctx.scratch.take_mat(DType::f64, s.rows, shape.value);
      double* dq_row = ctx.scratch.take_array<double>(key_size);
      std::fill_n(dk.row<double>(0), dk.size(), 0.0);
      std::fill_n(dv.row<double>(0), dv.size(), 0.0);
      for (std::int64_t i = 0; i < s.rows; ++i) {
        const std::int64_t row = s.q_row + i;
        const auto d_out = [&](std::int64_t d) { return get(d_o, row, h * shape.value + d); };
        double delta = 0;
        for (std::int64_t d = 0; d < shape.value; ++d) delta += d_out(d) * get(o, row, h * shape.value + d);
        std::fill_n(dq_row, key_size, 0.0);
        for (std::int64_t j = 0; j <= i; ++j) {
          const std::int64_t kv_row = s.kv_row + j;
          const double p = std::exp(head.score(row, kv_row) - get(lse, row, h));
          double dp = 0;
          for (std::int64_t d = 0; d < shape.value; ++d) {
            dp += d_out(d) * head.value(kv_row, d);
            dv.row<double>(j)[d] += p * d_out(d);
          }
          const double ds = shape.scale * p * (dp - delta);
          for (std::int64_t d = 0; d < key_size; ++d) {
            dq_row[d] += ds * head.key(kv_row, d);
            dk.row<double>(j)[d] += ds * head.query(row, d);
          }
        }
        for (std::int64_t d = 0; d < key_size; ++d) put(dq, row, h * key_size + d, dq_row[d]);
      }
      for (std::int64_t j = 0; j < s.rows; ++j) {
        for (std::int64_t d = 0; d < shape.nope; ++d) put(dkv, s.kv_row + j, h * kv_size + d, dk.row<double>(j)[d]);
        for (std::int64_t d = 0; d < shape.value; ++d) put(dkv, s.kv_row + j, h * kv_size + shape.nope + d, dv.row<double>(j)[d]);
        for (std::int64_t d = 0; d < shape.rope; ++d) dk_pe_sum.row<double>(j)[d] += dk.row<double>(j)[shape.nope + d];
      }
    }
    for (std::int64_t j = 0; j < s.rows; ++j)
      for (std::int64_t d = 0; d < shape.rope; ++d) put(dk_pe, s.kv_row + j, d, dk_pe_sum.row<double>(j)[d]);
  }
}

}  // namespace

void add_attention(Table& table) {
  table.attention_forward = attention_forward;
  table.attention_backward = attention_backward;
}

}  // namespace finback::kernels::reference_kernels
