// What each function does, counted from its operands: 2 operations a multiply-add in products and attention (the rest is bound by
// what it reads and writes, and its operations are left at 0); every operand read or written once.
#include "kernels/traced.h"

#include "kernels/functions.h"

namespace finback::kernels {
namespace {

using core::Work;
using Ids = std::span<const std::int32_t>;
using Segments = std::span<const Segment>;

double count(std::int64_t n) { return static_cast<double>(n); }
double size(const ConstMat& m) { return m ? count(m.size() * core::size_of(m.dtype)) : 0; }
double size(const ScaledMat& m) { return size(m.codes) + size(m.scales); }
double size(const WeightView& w) { return count(w.groups * w.rows * w.cols * core::size_of(w.dtype)) + size(w.scales); }
template <class... M>
double bytes(const M&... m) {
  return (0.0 + ... + size(m));
}
// Reads what it writes: += .
Work added(double flops, double read, const ConstMat& out) { return {flops, read + bytes(out), bytes(out)}; }

Work linear_forward(ConstMat x, const WeightView& w, Offsets, ConstMat addend, Mat y) {
  return {2 * count(x.rows * w.rows * w.cols), bytes(x, w, addend), bytes(y)};
}
Work linear_slices(ConstMat x, std::int64_t, const WeightView& w, Mat y, std::int64_t) {
  const double rows = count(x.rows), groups = count(w.groups), size = count(core::size_of(x.dtype));
  return {2 * rows * count(w.groups * w.rows * w.cols), bytes(w) + rows * groups * count(w.cols) * size,
          rows * groups * count(w.rows) * count(core::size_of(y.dtype))};
}
Work linear_backward_input(ConstMat dy, const WeightView& w, Offsets, ConstMat addend, Mat dx) {
  return {2 * count(dy.rows * w.rows * w.cols), bytes(dy, w, addend), bytes(dx)};
}
Work linear_backward_weight(ConstMat dy, ConstMat x, Offsets, Mat dw) {
  return added(2 * count(dy.rows * dy.cols * x.cols), bytes(dy, x), dw);
}

Work packed_bytes(const WeightView&) { return {}; }
Work pack_weights(const WeightView& w, void*) { return {0, bytes(w), bytes(w)}; }

Work quantize_rows(ConstMat x, const Quantization&, const ScaledBuffer& y) { return {0, bytes(x), bytes(y)}; }
Work quantize_columns(const ScaledMat& x, Offsets, const Quantization&, const ScaledBuffer& y) { return {0, bytes(x), bytes(y)}; }
Work quantize_blocks(ConstMat w, std::int64_t, std::span<const std::int64_t>, const Quantization&, const ScaledBuffer& y) {
  return {0, bytes(w), bytes(y)};
}
Work dequantize_rows(const ScaledMat& x, Mat y) { return {0, bytes(x), bytes(y)}; }
Work dequantize_blocks(const WeightView& w, Mat y) { return {0, bytes(w), bytes(y)}; }
Work encode_e5m6(ConstMat x, const ScaledBuffer& y) { return {0, bytes(x), bytes(y)}; }
Work decode_e5m6(const ScaledMat& x, Mat y) { return {0, bytes(x), bytes(y)}; }
Work encode_logfmt(ConstMat x, int, const ScaledBuffer& y) { return {0, bytes(x), bytes(y)}; }
Work decode_logfmt(const ScaledMat& x, int, Mat y) { return {0, bytes(x), bytes(y)}; }

Work scaled_forward(const ScaledMat& x, const WeightView& w, Offsets, ConstMat addend, const Accumulation&, Mat y) {
  return {2 * count(x.codes.rows * w.rows * w.cols), bytes(x, w, addend), bytes(y)};
}
Work scaled_backward_input(const ScaledMat& dy, const WeightView& w, Offsets, ConstMat addend, const Accumulation&, Mat dx) {
  return {2 * count(dy.codes.rows * w.rows * w.cols), bytes(dy, w, addend), bytes(dx)};
}
Work scaled_backward_weight(const ScaledMat& dy, const ScaledMat& x, Offsets, const Accumulation&, Mat dw) {
  return added(2 * count(dy.codes.rows * dy.codes.cols * x.codes.cols), bytes(dy, x), dw);
}

// Two products over the causal half of the scores; keys and values of each segment once.
Work attention_forward(ConstMat q, ConstMat kv, ConstMat k_pe, Segments segments, const AttentionShape& s, Mat o, Mat lse) {
  Work work{0, bytes(q), bytes(o, lse)};
  for (const Segment& i : segments) {
    const double rows = count(i.rows), keys = count(i.first_position) + rows;
    work.flops += 2 * count(s.heads * (s.nope + s.rope + s.value)) * rows * (keys - rows / 2);
    work.read += keys * count((kv.cols + k_pe.cols) * core::size_of(kv.dtype));
  }
  return work;
}
// Five products instead of two, as is the custom (Dao, arXiv 2307.08691, §4.1).
Work attention_backward(ConstMat q, ConstMat kv, ConstMat k_pe, ConstMat o, ConstMat lse, ConstMat d_o, Segments segments,
                        const AttentionShape& s, Mat dq, Mat dkv, Mat dk_pe) {
  const double forward = attention_forward(q, kv, k_pe, segments, s, {}, {}).flops;
  return {2.5 * forward, bytes(q, kv, k_pe, o, lse, d_o), bytes(dq, dkv, dk_pe)};
}

// The pages of each segment once for all heads.
Work latent_attention(ConstMat q_latent, ConstMat q, ConstMat cache, std::span<const PagedSegment> segments, const AttentionShape& s,
                      Mat o) {
  Work work{0, bytes(q_latent, q), bytes(o)};
  for (const PagedSegment& i : segments) {
    const double rows = count(i.rows), keys = count(i.first_position) + rows;
    work.flops += 2 * count(s.heads * (2 * cache.cols - s.rope)) * rows * (keys - rows / 2);
    work.read += keys * count(cache.cols * core::size_of(cache.dtype));
  }
  return work;
}

Work rms_norm_forward(ConstMat x, ConstMat w, double, Mat y) { return {0, bytes(x, w), bytes(y)}; }
Work rms_norm_backward_input(ConstMat dy, ConstMat x, ConstMat w, double, ConstMat addend, Mat dx) {
  return {0, bytes(dy, x, w, addend), bytes(dx)};
}
Work rms_norm_backward_weight(ConstMat dy, ConstMat x, double, Mat dw) { return added(0, bytes(dy, x), dw); }

Work rope(Mat x, std::int64_t heads, std::int64_t, ConstMat cos_sin, Ids, bool) {
  const double rotated = count(x.rows * heads * cos_sin.cols * core::size_of(x.dtype));
  return {0, rotated, rotated};
}

Work swiglu_forward(ConstMat gu, ConstMat weight, Mat a) { return {0, bytes(gu, weight), bytes(a)}; }
Work swiglu_backward(ConstMat da, ConstMat gu, ConstMat weight, Mat dgu, Mat dweight) {
  return {0, bytes(da, gu, weight), bytes(dgu, dweight)};
}

Work gate_forward(ConstMat logits, ConstMat bias, const GateShape&, Mat ids, Mat weights) {
  return {0, bytes(logits, bias), bytes(ids, weights)};
}
Work balance_forward(ConstMat logits, const GateShape&, std::int64_t, Mat f) { return {0, bytes(logits), bytes(f)}; }
Work gate_backward(ConstMat logits, ConstMat ids, ConstMat dweights, const GateShape&, std::int64_t, ConstMat f, double, Mat dlogits) {
  return {0, bytes(logits, ids, dweights, f), bytes(dlogits)};
}

Work gather_rows(ConstMat x, Ids slot_token, Mat y) { return {0, bytes(x) + 4 * count(std::ssize(slot_token)), bytes(y)}; }
Work combine_rows(ConstMat slots, ConstMat ids, ConstMat token_slots, std::int64_t, ConstMat addend, Mat y) {
  return {0, bytes(slots, ids, token_slots, addend), bytes(y)};
}

Work embedding_forward(ConstMat, Ids ids, Mat x) { return {0, bytes(x) + 4 * count(std::ssize(ids)), bytes(x)}; }
Work embedding_backward(ConstMat dx, Ids ids, Mat dtable) {
  const double rows = count(dx.size() * core::size_of(dtable.dtype));
  return {0, bytes(dx) + 4 * count(std::ssize(ids)) + rows, rows};
}

Work cross_entropy(ConstMat logits, Ids targets, double, Mat loss, Mat best, Mat dlogits) {
  return {0, bytes(logits) + 4 * count(std::ssize(targets)), bytes(loss, best, dlogits)};
}

Work adamw(ConstMat gradient, const AdamW&, Mat master, Mat m, Mat v, Mat weight) {
  return {0, bytes(gradient, master, m, v), bytes(master, m, v) + (weight.data == master.data ? 0 : bytes(weight))};
}
Work sum_squares(ConstMat x) { return {0, bytes(x), 0}; }

Work add(ConstMat a, ConstMat b, Mat y) { return {0, bytes(a, b), bytes(y)}; }
Work convert(ConstMat x, Mat y) { return {0, bytes(x), bytes(y)}; }

template <auto member, auto work, const char* name>
struct Traced;

template <class R, class... A, R (*Table::*member)(const Context&, A...), auto work, const char* name>
struct Traced<member, work, name> {
  static R call(const Context& ctx, A... a) {
    const core::SpanScope span(ctx.spans, name, -1, ctx.spans ? work(a...) : Work{});
    return (static_cast<const TracedTable&>(ctx.kernels).inner.*member)(ctx, a...);
  }
};

#define FB_NAME(f) constexpr char f##_name[] = #f;
FB_FUNCTIONS(FB_NAME)
#undef FB_NAME

}  // namespace

TracedTable::TracedTable(const Table& table) : Table(table), inner(table) {
#define FB_TRACE(f) f = Traced<&Table::f, kernels::f, f##_name>::call;
  FB_FUNCTIONS(FB_TRACE)
#undef FB_TRACE
}

}  // namespace finback::kernels
