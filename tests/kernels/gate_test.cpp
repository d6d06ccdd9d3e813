#include "tests/kernels/gradient.h"
#include "tests/kernels/rows.h"

#include <gtest/gtest.h>

namespace finback::kernels::test {
namespace {

TEST(GateReference, BackwardMatchesCentralDifferences) {
  Machine machine("reference", 1);
  const Context& ctx = machine.context();
  constexpr std::int64_t T = 6, E = 8, K = 3, sequences = 2;
  const double balance_scale = 0.7;
  for (const Scoring scoring : {Scoring::sigmoid, Scoring::softmax})
    for (const bool normalise : {true, false})
      for (const bool balance : {true, false})
        for (const std::int64_t groups : {1, 4}) {
          const GateShape shape{.experts = E,
                                .chosen = K,
                                .groups = groups,
                                .groups_chosen = (groups + 1) / 2,
                                .scoring = scoring,
                                .group_score = scoring == Scoring::sigmoid ? GroupScore::top2_sum : GroupScore::max,
                                .normalise = normalise,
                                .scale = 2.5};
          auto logits = normals(T * E, 1), dweights = normals(T * K, 2);
          auto bias = normals(E, 3);
          std::vector<std::int32_t> ids(T * K);
          std::vector<double> weights(T * K), f(sequences * E), dlogits(T * E);
          const Mat ids_TK = core::mat(ids.data(), DType::i32, T, K), f_view = view(f, sequences, E);
          const auto loss = [&] {
            ctx.kernels.gate_forward(ctx, view(logits, T, E), view(bias, 1, E), shape, ids_TK, view(weights, T, K));
            double total = dot(weights, dweights);
            if (balance) total += balance_scale * ctx.kernels.balance_forward(ctx, view(logits, T, E), shape, sequences, f_view);
            return total;
          };
          loss();
          ctx.kernels.gate_backward(ctx, view(logits, T, E), ids_TK, view(dweights, T, K), shape, sequences,
                                    balance ? ConstMat(f_view) : ConstMat{}, balance_scale, view(dlogits, T, E));
          EXPECT_LT(gradient_error(logits, dlogits, loss), kGradientError)
              << (scoring == Scoring::sigmoid ? "sigmoid" : "softmax") << ", normalise " << normalise << ", balance " << balance
              << ", groups " << groups;
        }
}

GateShape shape_of(std::int64_t experts, std::int64_t chosen, std::int64_t groups, std::int64_t groups_chosen, Scoring scoring) {
  return {.experts = experts,
          .chosen = chosen,
          .groups = groups,
          .groups_chosen = groups_chosen,
          .scoring = scoring,
          .group_score = scoring == Scoring::sigmoid ? GroupScore::top2_sum : GroupScore::max,
          .normalise = scoring == Scoring::sigmoid,
          .scale = 2.5};
}

const std::vector<GateShape> kShapes = {
    shape_of(32, 4, 4, 2, Scoring::sigmoid), shape_of(256, 8, 8, 4, Scoring::sigmoid), shape_of(10, 10, 1, 1, Scoring::sigmoid),
    shape_of(64, 6, 1, 1, Scoring::softmax), shape_of(30, 3, 5, 2, Scoring::softmax),  shape_of(6, 2, 6, 3, Scoring::sigmoid),
};

TEST(Gate, ChoosesAndWeighsAsTheTwinRowByRow) {
  for (const std::string_view isa : fast_tables())
    for (const GateShape& shape : kShapes)
      for (const bool biased : {false, true}) {
        SCOPED_TRACE(fmt::format("{}, {} of {} experts, bias {}", isa, shape.chosen, shape.experts, biased));
        const std::int64_t T = 150;
        const Fenced logits = random_matrix(DType::f32, T, shape.experts, 1, 1, /*gap=*/1),
                     bias = random_matrix(DType::f32, 1, shape.experts, 2, 0.1);
        const auto run = [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat ids, Mat weights) {
          ctx.kernels.gate_forward(ctx, logits.mat().row_range(first, rows), biased ? bias.mat() : ConstMat{}, shape, ids, weights);
        };
        expect_row_wise(isa, DType::i32, T, shape.chosen, {}, [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat ids) {
          Fenced weights(DType::f32, rows, shape.chosen);
          run(ctx, first, rows, ids, weights);
          for (std::int64_t t = 0; t < rows; ++t)
            for (std::int64_t k = 1; k < shape.chosen; ++k) EXPECT_LT(get(ids, t, k - 1), get(ids, t, k));
        });
        // A score errs by exp's 2 units and some operations, their sum over E or K by as many half units.
        const Tolerance tolerance{.relative = 12 * kSingle + sum_error(shape.experts) + static_cast<double>(shape.chosen) * kSingle};
        expect_row_wise(isa, DType::f32, T, shape.chosen, tolerance,
                        [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat weights) {
                          Fenced ids(DType::i32, rows, shape.chosen);
                          run(ctx, first, rows, ids, weights);
                        });
      }
}

// The choice of one token by every table; the logits of the experts, and who is to be chosen.
void expect_choice(const GateShape& shape, const std::vector<double>& values, const std::vector<double>& biases,
                   const std::vector<std::int32_t>& chosen) {
  for (const std::string_view isa : runnable()) {
    Machine machine(isa, 1);
    Fenced logits(DType::f32, 1, shape.experts), bias = constant_matrix(DType::f32, 1, shape.experts, 0), ids(DType::i32, 1, shape.chosen),
                                                 weights(DType::f32, 1, shape.chosen);
    for (std::int64_t e = 0; e < shape.experts; ++e) put(logits, 0, e, values[static_cast<std::size_t>(e)]);
    for (std::size_t e = 0; e < biases.size(); ++e) put(bias, 0, static_cast<std::int64_t>(e), biases[e]);
    machine.kernels().gate_forward(machine.context(), logits, bias, shape, ids, weights);
    for (std::int64_t k = 0; k < shape.chosen; ++k)
      EXPECT_EQ(get(ids, 0, k), chosen[static_cast<std::size_t>(k)]) << isa << ", choice " << k;
    EXPECT_TRUE(ids.fences_stand());
    EXPECT_TRUE(weights.fences_stand());
  }
}

TEST(Gate, OddLogits) {
  const double inf = INFINITY, nan = NAN;
  for (const Scoring scoring : {Scoring::sigmoid, Scoring::softmax}) {
    const GateShape one = shape_of(6, 2, 1, 1, scoring), grouped = shape_of(6, 2, 3, 2, scoring);
    expect_choice(one, {1, 1, 1, 1, 1, 1}, {}, {0, 1});  // ties: the lower ids
    expect_choice(grouped, {1, 1, 1, 1, 1, 1}, {}, {0, 1});
    expect_choice(one, {nan, 1, nan, 1, 2, nan}, {}, {1, 4});  // NaN comes last
    expect_choice(one, {nan, nan, nan, nan, nan, -3}, {}, {0, 5});
    expect_choice(one, {nan, nan, nan, nan, nan, nan}, {}, {0, 1});
    expect_choice(grouped, {nan, nan, nan, nan, nan, nan}, {}, {0, 1});
    expect_choice(one, {-inf, -inf, -inf, -inf, -inf, -inf}, {}, {0, 1});
  }
  expect_choice(shape_of(6, 2, 1, 1, Scoring::sigmoid), {-inf, 3, inf, -inf, 5, 4}, {}, {2, 4});
  expect_choice(shape_of(6, 2, 1, 1, Scoring::softmax), {-inf, 3, inf, -inf, 5, 4}, {}, {0, 2});  // beside infinity all are 0
  // Choices below zero: what is masked stays out, though 0 would be more.
  expect_choice(shape_of(6, 2, 3, 1, Scoring::sigmoid), {1, 1, 2, 2, 3, 3}, {-5, -5, -6, -6, -7, -7}, {0, 1});
  // The two best of a group count, not the best alone; its maximum does for softmax.
  expect_choice(shape_of(6, 2, 3, 1, Scoring::sigmoid), {3, -9, 1, 1, 0, 0}, {}, {2, 3});
  expect_choice(shape_of(6, 2, 3, 1, Scoring::softmax), {3, -9, 1, 1, 0, 0}, {}, {0, 1});
}

TEST(Gate, TheBiasChoosesButDoesNotWeigh) {
  const GateShape shape{.experts = 4, .chosen = 2, .normalise = false, .scale = 1};
  for (const std::string_view isa : runnable()) {
    Machine machine(isa, 1);
    Fenced logits = constant_matrix(DType::f32, 1, 4, 0), bias = constant_matrix(DType::f32, 1, 4, 0), ids(DType::i32, 1, 2),
           weights(DType::f32, 1, 2);
    put(bias, 0, 3, 7);
    machine.kernels().gate_forward(machine.context(), logits, bias, shape, ids, weights);
    EXPECT_EQ(get(ids, 0, 0), 0);
    EXPECT_EQ(get(ids, 0, 1), 3);
    EXPECT_EQ(get(weights, 0, 1), 0.5);
  }
}

TEST(Gate, BalanceMatchesTheTwin) {
  for (const std::string_view isa : fast_tables())
    for (const GateShape& shape : kShapes) {
      SCOPED_TRACE(fmt::format("{}, {} of {} experts", isa, shape.chosen, shape.experts));
      const std::int64_t sequences = 3, T = sequences * 150, E = shape.experts;
      const Fenced logits = random_matrix(DType::f32, T, E, 1, 1, /*gap=*/1);
      Fenced want(DType::f32, sequences, E), one = want, two = want;
      Machine twin("reference", 1), machine_one(isa, 1), machine_two(isa, 2);
      const double expected = twin.kernels().balance_forward(twin.context(), logits, shape, sequences, want);
      const double loss_one = machine_one.kernels().balance_forward(machine_one.context(), logits, shape, sequences, one);
      const double loss_two = machine_two.kernels().balance_forward(machine_two.context(), logits, shape, sequences, two);
      // Runs of 64 rows are added one by one, all terms being positive.
      EXPECT_NEAR(loss_one, expected, expected * ((64 + 16) * kSingle + sum_error(E)));
      EXPECT_TRUE(close(one, want, {.relative = kSingle}));  // counts are exact
      EXPECT_EQ(loss_one, loss_two);
      EXPECT_TRUE(same_bits(two, one));
      EXPECT_TRUE(one.fences_stand());
    }
}

TEST(Gate, BackwardMatchesTheTwinRowByRow) {
  for_each_case([](std::string_view isa, DType dtype) {
    for (const GateShape& shape : kShapes)
      for (const bool balance : {false, true}) {
        SCOPED_TRACE(fmt::format("{} of {} experts, balance {}", shape.chosen, shape.experts, balance));
        const std::int64_t T = 120, E = shape.experts, K = shape.chosen;
        const Fenced logits = random_matrix(DType::f32, T, E, 1), dweights = random_matrix(DType::f32, T, K, 2);
        Fenced ids(DType::i32, T, K), weights(DType::f32, T, K), f(DType::f32, T, E);
        Machine twin("reference", 1);
        twin.kernels().gate_forward(twin.context(), logits, {}, shape, ids, weights);
        twin.kernels().balance_forward(twin.context(), logits, shape, /*sequences=*/T, f);  // each row a sequence of its own
        // What is subtracted is at most scale · |dw| / Σs < 2.5 · 5 / 0.2 and, for the balance, f ≤ E / K.
        const double bound = 63 + static_cast<double>(E) / static_cast<double>(K);
        const Tolerance tolerance{.absolute = bound * (16 * kSingle + sum_error(E)), .relative = 2 * half_ulp(dtype)};
        expect_row_wise(isa, dtype, T, E, tolerance, [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat dlogits) {
          ctx.kernels.gate_backward(ctx, logits.mat().row_range(first, rows), ids.mat().row_range(first, rows),
                                    dweights.mat().row_range(first, rows), shape, rows > 0 ? rows : 1,
                                    balance ? ConstMat(f.mat().row_range(first, rows)) : ConstMat{}, 0.5, dlogits);
        });
      }
  });
}

}  // namespace
}  // namespace finback::kernels::test
