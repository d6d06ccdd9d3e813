// The gate, as in kernels/reference/gate.cpp. What is out of a choice counts as NaN there, which argmax never takes; a score
// that is NaN itself counts as −inf, and so comes last.
#include "kernels/cpu/argmax.h"
#include "kernels/cpu/entries.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/kernels.h"

namespace finback::kernels::FB_ISA {
namespace {

constexpr float kTiny = 1e-20f;
constexpr float kOut = __builtin_nanf("");

int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// One thread's temporaries, padded to whole vectors.
struct Work {
  float *s, *choice, *of_group;
};
struct WorkSet {
  float* base;
  int64_t width;
  WorkSet(const Context& ctx, int64_t experts)
      : base(ctx.scratch.take_array<float>(padded(experts) * 3 * ctx.team.threads())), width(padded(experts)) {}
  Work of(int thread) const {
    float* p = base + width * 3 * thread;
    return {p, p + width, p + 2 * width};
  }
};

float key(float x) { return __builtin_isnan(x) ? -__builtin_inff() : x; }

void check(ConstMat logits, const GateShape& shape) {
  check_index("experts of the gate's logits", logits.cols - 1, shape.experts);
  check_index("chosen experts", shape.chosen - 1, shape.experts / shape.groups * shape.groups_chosen);
}

// s_E of one token.
void scores(const float* logits, int64_t n, Scoring scoring, float* s) {
  if (scoring == Scoring::sigmoid) {
    for (int64_t i = 0; i < n; i += kLanes) store(s + i, 1 / (1 + vexp(-load(logits + i, n - i))));
    return;
  }
  const vf max = vf{} + logits[argmax(logits, n)];
  for (int64_t i = 0; i < n; i += kLanes) {
    const vf x = load(logits + i, n - i);
    store(s + i, x == max ? vf{} + 1.0f : vexp(x - max));
  }
  const float sum = sum_over(n, [&](int64_t i, int64_t lanes) {
    const vf x = load(s + i, lanes);
    return is_number(x) ? x : vf{};
  });
  for (int64_t i = 0; i < n; i += kLanes) store(s + i, load(s + i) / sum);
}

float score_sum(const float* s, int64_t n) {
  return sum_over(n, [&](int64_t i, int64_t lanes) { return load(s + i, lanes); });
}

// choice = s [+ bias], NaN counted as −inf; the padding is out.
void choices(const float* s, const float* bias, int64_t n, float* choice) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const vf c = bias ? load(s + i) + load(bias + i, n - i) : load(s + i);
    store(choice + i, is_number(c) ? c : vf{} - __builtin_inff());
  }
  for (int64_t i = n; i < padded(n); ++i) choice[i] = kOut;
}

float group_score(const float* choice, int64_t n, GroupScore kind) {
  float first = choice[0], second = -__builtin_inff();
  for (int64_t i = 1; i < n; ++i) {
    const float c = choice[i], lower = first < c ? first : c;
    second = second < lower ? lower : second;
    first = first < c ? c : first;
  }
  return key(kind == GroupScore::top2_sum && n > 1 ? first + second : first);
}

// Leaves only the best groups in the choice.
void keep_groups(const GateShape& shape, float* choice, float* of_group) {
  const int64_t per_group = shape.experts / shape.groups;
  for (int64_t g = 0; g < shape.groups; ++g) of_group[g] = group_score(choice + g * per_group, per_group, shape.group_score);
  for (int64_t g = shape.groups; g < padded(shape.groups); ++g) of_group[g] = kOut;
  for (int64_t j = 0; j < shape.groups_chosen; ++j) of_group[argmax(of_group, padded(shape.groups))] = kOut;
  for (int64_t g = 0; g < shape.groups; ++g)
    if (!__builtin_isnan(of_group[g]))
      for (int64_t e = 0; e < per_group; ++e) choice[g * per_group + e] = kOut;
}

void forward(const Context& ctx, ConstMat logits, ConstMat bias, const GateShape& shape, Mat ids, Mat weights) {
  if (logits.dtype != DType::f32) return reference().gate_forward(ctx, logits, bias, shape, ids, weights);
  check(logits, shape);
  const core::ArenaScope scope(ctx.scratch);
  const WorkSet works(ctx, shape.experts);
  for_ranges(ctx.team, split_rows(logits.rows, shape.experts * shape.chosen), [&](Range rows, int thread) {
    const Work w = works.of(thread);
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      scores(logits.row<float>(t), shape.experts, shape.scoring, w.s);
      choices(w.s, bias ? bias.row<float>(0) : nullptr, shape.experts, w.choice);
      if (shape.groups > 1) keep_groups(shape, w.choice, w.of_group);
      int32_t* id = ids.row<int32_t>(t);
      for (int64_t k = 0; k < shape.chosen; ++k) {
        const auto best = static_cast<int32_t>(argmax(w.choice, padded(shape.experts)));
        w.choice[best] = kOut;
        int64_t place = k;  // ascending
        for (; place > 0 && id[place - 1] > best; --place) id[place] = id[place - 1];
        id[place] = best;
      }
      float sum = kTiny;
      for (int64_t k = 0; k < shape.chosen; ++k) sum += w.s[id[k]];
      const auto scale = static_cast<float>(shape.scale);
      float* weight = weights.row<float>(t);
      for (int64_t k = 0; k < shape.chosen; ++k) weight[k] = w.s[id[k]] * (shape.normalise ? scale / sum : scale);
    }
  });
}

constexpr int64_t kBalanceRows = 64;  // rows of a sequence that are summed together, before the sums are added in order

double balance(const Context& ctx, ConstMat logits, const GateShape& shape, int64_t sequences, Mat f) {
  if (logits.dtype != DType::f32) return reference().balance_forward(ctx, logits, shape, sequences, f);
  check(logits, shape);
  const int64_t experts = shape.experts, width = padded(experts), length = logits.rows / sequences;
  const int64_t blocks = (length + kBalanceRows - 1) / kBalanceRows;
  const core::ArenaScope scope(ctx.scratch);
  const WorkSet works(ctx, experts);
  float* partial = ctx.scratch.take_array<float>(sequences * blocks * 2 * width);  // of each block: Σ s', and the counts
  for_ranges(ctx.team, {sequences * blocks, 1}, [&](Range range, int thread) {
    const Work w = works.of(thread);
    const int64_t first = range.begin % blocks * kBalanceRows;
    const int64_t begin = range.begin / blocks * length + first;
    const int64_t count = length - first < kBalanceRows ? length - first : kBalanceRows;
    float *share = partial + range.begin * 2 * width, *chosen = share + width;
    memset(share, 0, static_cast<size_t>(2 * width) * sizeof(float));
    for (int64_t t = begin; t < begin + count; ++t) {
      scores(logits.row<float>(t), experts, shape.scoring, w.s);
      choices(w.s, nullptr, experts, w.choice);
      for (int64_t k = 0; k < shape.chosen; ++k) {
        const int64_t best = argmax(w.choice, width);
        w.choice[best] = kOut;
        chosen[best] += 1;
      }
      const float per_score = 1 / (kTiny + score_sum(w.s, experts));
      for (int64_t i = 0; i < experts; i += kLanes) store(share + i, load(share + i) + load(w.s + i) * per_score);
    }
  });
  double total = 0;
  const double tokens = length > 0 ? static_cast<double>(length) : 1;
  const double unit = static_cast<double>(experts) / (static_cast<double>(shape.chosen) * tokens);
  for (int64_t q = 0; q < sequences; ++q)
    for (int64_t e = 0; e < experts; ++e) {
      double share = 0, chosen = 0;
      for (int64_t b = q * blocks; b < (q + 1) * blocks; ++b) {
        share += static_cast<double>(partial[b * 2 * width + e]);
        chosen += static_cast<double>(partial[(b * 2 + 1) * width + e]);
      }
      f.row<float>(q)[e] = static_cast<float>(chosen * unit);
      total += chosen * unit * (share / tokens);
    }
  return total;
}

template <class T>
void backward_as(const Context& ctx, ConstMat logits, ConstMat ids, ConstMat dweights, const GateShape& shape, int64_t sequences,
                 ConstMat f, float balance_scale, Mat dlogits) {
  const int64_t n = shape.experts, length = logits.rows / sequences;
  const core::ArenaScope scope(ctx.scratch);
  const WorkSet works(ctx, n);
  for_ranges(ctx.team, split_rows(logits.rows, 4 * n), [&](Range rows, int thread) {
    const Work w = works.of(thread);
    float *s = w.s, *ds = w.choice;
    for (int64_t t = rows.begin; t < rows.end; ++t) {
      scores(logits.row<float>(t), n, shape.scoring, s);
      memset(ds, 0, static_cast<size_t>(padded(n)) * sizeof(float));
      if (f) {
        const float* pf = f.row<float>(t / length);
        const float sum = kTiny + score_sum(s, n);
        const float mean_f = sum_over(n, [&](int64_t i, int64_t lanes) { return load(pf + i, lanes) * load(s + i, lanes); }) / sum;
        const float unit = balance_scale / (static_cast<float>(length) * sum);
        for (int64_t i = 0; i < n; i += kLanes) store(ds + i, unit * (load(pf + i, n - i) - mean_f));
      }
      const int32_t* id = ids.row<int32_t>(t);
      const float* dw = dweights.row<float>(t);
      float per_sum = static_cast<float>(shape.scale), mean_dw = 0;
      for (int64_t k = 0; k < ids.cols; ++k) check_index("chosen expert", id[k], n);
      if (shape.normalise) {
        float sum = kTiny;
        for (int64_t k = 0; k < ids.cols; ++k) sum += s[id[k]];
        for (int64_t k = 0; k < ids.cols; ++k) mean_dw += dw[k] * (s[id[k]] / sum);
        per_sum /= sum;
      }
      for (int64_t k = 0; k < ids.cols; ++k) ds[id[k]] += per_sum * (dw[k] - mean_dw);
      const bool softmax = shape.scoring == Scoring::softmax;
      const float mean_ds = softmax ? sum_over(n, [&](int64_t i, int64_t lanes) { return load(ds + i, lanes) * load(s + i, lanes); }) : 0;
      T* out = dlogits.row<T>(t);
      for (int64_t i = 0; i < n; i += kLanes) {
        const vf x = load(s + i), d = load(ds + i);
        store(out + i, softmax ? x * (d - mean_ds) : d * x * (1 - x), n - i);
      }
    }
  });
}

void backward(const Context& ctx, ConstMat logits, ConstMat ids, ConstMat dweights, const GateShape& shape, int64_t sequences, ConstMat f,
              double balance_scale, Mat dlogits) {
  const auto scale = static_cast<float>(balance_scale);
  if (logits.dtype != DType::f32) reference().gate_backward(ctx, logits, ids, dweights, shape, sequences, f, balance_scale, dlogits);
  else if (dlogits.dtype == DType::bf16) backward_as<uint16_t>(ctx, logits, ids, dweights, shape, sequences, f, scale, dlogits);
  else backward_as<float>(ctx, logits, ids, dweights, shape, sequences, f, scale, dlogits);
}

}  // namespace

void add_gate(Table& table) {
  table.gate_forward = forward;
  table.balance_forward = balance;
  table.gate_backward = backward;
}

}  // namespace finback::kernels::FB_ISA
