// The gate: which experts a token goes to and with what weight [V3 Eq. 12–16], and the sequence-wise balance loss [V3 Eq. 17–20].
#include "kernels/cpu/entries.h"
#include "kernels/reference/access.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace finback::kernels::reference_kernels {
namespace {

constexpr double kTiny = 1e-20;  // keeps the normalisation finite when every chosen score is 0, as Hugging Face does

// What a value counts in a choice: NaN comes last.
double key(double x) { return std::isnan(x) ? -std::numeric_limits<double>::infinity() : x; }

// s_E of one token. Softmax gives infinite logits their limit, and NaN to nobody but the NaN logits.
void scores(ConstMat logits, std::int64_t t, Scoring scoring, double* s) {
  const std::int64_t experts = logits.cols;
  if (scoring == Scoring::sigmoid) {
    for (std::int64_t e = 0; e < experts; ++e) s[e] = 1 / (1 + std::exp(-get(logits, t, e)));
    return;
  }
  double highest = -std::numeric_limits<double>::infinity(), sum = 0;
  for (std::int64_t e = 0; e < experts; ++e) highest = std::fmax(highest, get(logits, t, e));
  for (std::int64_t e = 0; e < experts; ++e) {
    const double l = get(logits, t, e);
    s[e] = l == highest ? 1 : std::exp(l - highest);
    if (!std::isnan(s[e])) sum += s[e];
  }
  for (std::int64_t e = 0; e < experts; ++e) s[e] /= sum;
}

// Marks the k best of those n values that are allowed (null: all), ties to the lower index.
void mark_best(const double* value, std::int64_t n, std::int64_t k, const bool* allowed, bool* taken) {
  for (std::int64_t i = 0; i < n; ++i) taken[i] = false;
  for (std::int64_t j = 0; j < k; ++j) {
    std::int64_t best = -1;
    for (std::int64_t i = 0; i < n; ++i)
      if (!taken[i] && (!allowed || allowed[i]) && (best < 0 || key(value[i]) > key(value[best]))) best = i;
    taken[best] = true;
  }
}

double group_score(const double* choice, std::int64_t n, GroupScore kind) {
  double first = key(choice[0]), second = -std::numeric_limits<double>::infinity();
  for (std::int64_t i = 1; i < n; ++i) {
    const double c = key(choice[i]);
    second = std::max(second, std::min(first, c));
    first = std::max(first, c);
  }
  return kind == GroupScore::top2_sum && n > 1 ? first + second : first;
}

void check(ConstMat logits, const GateShape& shape) {
  FB_CHECK(logits.cols == shape.experts && shape.groups >= 1 && shape.experts % shape.groups == 0, "{} logits, {} experts in {} groups",
           logits.cols, shape.experts, shape.groups);
  FB_CHECK(shape.groups_chosen >= 1 && shape.groups_chosen <= shape.groups && shape.chosen >= 1 &&
               shape.chosen <= shape.experts / shape.groups * shape.groups_chosen,
           "{} experts from {} of {} groups", shape.chosen, shape.groups_chosen, shape.groups);
}

void gate_forward(const Context& ctx, ConstMat logits, ConstMat bias, const GateShape& shape, Mat ids, Mat weights) {
  check(logits, shape);
  const std::int64_t experts = shape.experts, per_group = experts / shape.groups;
  const core::ArenaScope scope(ctx.scratch);
  double* s = ctx.scratch.take_array<double>(experts);
  double* choice = ctx.scratch.take_array<double>(experts);
  double* of_group = ctx.scratch.take_array<double>(shape.groups);
  bool* group_taken = ctx.scratch.take_array<bool>(shape.groups);
  bool* allowed = ctx.scratch.take_array<bool>(experts);
  bool* taken = ctx.scratch.take_array<bool>(experts);
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    scores(logits, t, shape.scoring, s);
    for (std::int64_t e = 0; e < experts; ++e) choice[e] = s[e] + (bias ? get(bias, 0, e) : 0);
    for (std::int64_t g = 0; g < shape.groups; ++g) of_group[g] = group_score(choice + g * per_group, per_group, shape.group_score);
    mark_best(of_group, shape.groups, shape.groups_chosen, nullptr, group_taken);
    for (std::int64_t e = 0; e < experts; ++e) allowed[e] = group_taken[e / per_group];
    mark_best(choice, experts, shape.chosen, allowed, taken);

    double sum = kTiny;
    for (std::int64_t e = 0; e < experts; ++e)
      if (taken[e]) sum += s[e];
    const double scale = shape.normalise ? shape.scale / sum : shape.scale;
    std::int64_t k = 0;
    for (std::int64_t e = 0; e < experts; ++e)
      if (taken[e]) {
        put(ids, t, k, static_cast<double>(e));
        put(weights, t, k++, s[e] * scale);
      }
  }
}

double balance_forward(const Context& ctx, ConstMat logits, const GateShape& shape, std::int64_t sequences, Mat f) {
  check(logits, shape);
  FB_CHECK(sequences >= 1 && logits.rows % sequences == 0, "{} rows in {} sequences", logits.rows, sequences);
  const std::int64_t experts = shape.experts, length = logits.rows / sequences;
  const core::ArenaScope scope(ctx.scratch);
  double* s = ctx.scratch.take_array<double>(experts);
  double* share = ctx.scratch.take_array<double>(experts);  // Σ_t s'
  double* count = ctx.scratch.take_array<double>(experts);
  bool* taken = ctx.scratch.take_array<bool>(experts);
  double total = 0;
  for (std::int64_t q = 0; q < sequences; ++q) {
    for (std::int64_t e = 0; e < experts; ++e) share[e] = count[e] = 0;
    for (std::int64_t t = q * length; t < (q + 1) * length; ++t) {
      scores(logits, t, shape.scoring, s);
      mark_best(s, experts, shape.chosen, nullptr, taken);
      double sum = kTiny;
      for (std::int64_t e = 0; e < experts; ++e) sum += s[e];
      for (std::int64_t e = 0; e < experts; ++e) {
        share[e] += s[e] / sum;
        count[e] += taken[e];
      }
    }
    const double tokens = length > 0 ? static_cast<double>(length) : 1;
    const double unit = static_cast<double>(experts) / (static_cast<double>(shape.chosen) * tokens);
    for (std::int64_t e = 0; e < experts; ++e) {
      put(f, q, e, count[e] * unit);
      total += count[e] * unit * (share[e] / tokens);
    }
  }
  return total;
}

void gate_backward(const Context& ctx, ConstMat logits, ConstMat ids, ConstMat dweights, const GateShape& shape, std::int64_t sequences,
                   ConstMat f, double balance_scale, Mat dlogits) {
  check(logits, shape);
  FB_CHECK(sequences >= 1 && logits.rows % sequences == 0, "{} rows in {} sequences", logits.rows, sequences);
  const std::int64_t experts = shape.experts, length = logits.rows / sequences;
  const core::ArenaScope scope(ctx.scratch);
  double* s = ctx.scratch.take_array<double>(experts);
  double* ds = ctx.scratch.take_array<double>(experts);
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    scores(logits, t, shape.scoring, s);
    for (std::int64_t e = 0; e < experts; ++e) ds[e] = 0;
    if (f) {  // d/ds of balance_scale / length · Σ_e f_e s_e / Σ_j s_j
      const std::int64_t q = t / length;
      double sum = kTiny, mean_f = 0;
      for (std::int64_t e = 0; e < experts; ++e) sum += s[e];
      for (std::int64_t e = 0; e < experts; ++e) mean_f += get(f, q, e) * s[e] / sum;
      const double unit = balance_scale / (static_cast<double>(length) * sum);
      for (std::int64_t e = 0; e < experts; ++e) ds[e] = unit * (get(f, q, e) - mean_f);
    }
    double chosen_sum = kTiny, mean_dw = 0;  // d/ds of Σ_k dw_k · scale · s_k [/ Σ_j s_j]
    if (shape.normalise) {
      for (std::int64_t k = 0; k < ids.cols; ++k) chosen_sum += s[ids.row<std::int32_t>(t)[k]];
      for (std::int64_t k = 0; k < ids.cols; ++k) mean_dw += get(dweights, t, k) * s[ids.row<std::int32_t>(t)[k]] / chosen_sum;
    }
    for (std::int64_t k = 0; k < ids.cols; ++k) {
      const double dw = get(dweights, t, k);
      ds[ids.row<std::int32_t>(t)[k]] += shape.scale * (shape.normalise ? (dw - mean_dw) / chosen_sum : dw);
    }
    double mean_ds = 0;
    if (shape.scoring == Scoring::softmax)
      for (std::int64_t e = 0; e < experts; ++e) mean_ds += ds[e] * s[e];
    for (std::int64_t e = 0; e < experts; ++e)
      put(dlogits, t, e, shape.scoring == Scoring::sigmoid ? ds[e] * s[e] * (1 - s[e]) : s[e] * (ds[e] - mean_ds));
  }
}

}  // namespace

void add_gate(Table& table) {
  table.gate_forward = gate_forward;
  table.balance_forward = balance_forward;
  table.gate_backward = gate_backward;
}

}  // namespace finback::kernels::reference_kernels
