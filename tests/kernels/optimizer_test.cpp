#include "tests/kernels/rows.h"

#include <gtest/gtest.h>

namespace finback::kernels::test {
namespace {

struct State {
  Fenced gradient, master, m, v, weight;
  State(std::int64_t n, DType moments, DType weights)
      : gradient(random_matrix(DType::f32, 1, n, 1)),
        master(random_matrix(DType::f32, 1, n, 2)),
        m(random_matrix(moments, 1, n, 3, 0.1)),
        v(random_matrix(moments, 1, n, 4, 0.1)),
        weight(weights, 1, n) {
    for (std::int64_t i = 0; i < n; ++i) put(v, 0, i, std::abs(get(v, 0, i)));
  }
  void step(std::string_view isa, int threads, const AdamW& options) {
    Machine machine(isa, threads);
    machine.kernels().adamw(machine.context(), gradient, options, master, m, v, weight);
  }
};

TEST(AdamW, MatchesTheTwin) {
  for (const std::string_view isa : fast_tables())
    for (const DType moments : {DType::f32, DType::bf16})
      for (const DType weights : {DType::f32, DType::bf16})
        for (const std::int64_t n : {0, 1, 37, 100'003}) {
          SCOPED_TRACE(fmt::format("{}, moments {}, weights {}, {}", isa, core::name_of(moments), core::name_of(weights), n));
          const AdamW options{.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .step = 3, .gradient_scale = 0.5};
          State want(n, moments, weights), one = want, two = want;
          want.step("reference", 1, options);
          one.step(isa, 1, options);
          two.step(isa, 2, options);
          // m cancels: its terms are below 3. The step is at most lr · |m| / √v / correction, |m| < 1, with v from its
          // decayed part and this gradient: below 10 · lr · … — ten operations in f32.
          EXPECT_TRUE(close(one.m, want.m, {.absolute = 4 * kSingle, .relative = 2 * half_ulp(moments)}));
          EXPECT_TRUE(close(one.v, want.v, {.relative = 6 * kSingle + 2 * half_ulp(moments)}));
          const Tolerance tolerance{.absolute = options.lr * 20 * 10 * kSingle, .relative = 3 * kSingle};
          EXPECT_TRUE(close(one.master, want.master, tolerance));
          EXPECT_TRUE(
              close(one.weight, want.weight, {.absolute = tolerance.absolute, .relative = tolerance.relative + 2 * half_ulp(weights)}));
          for (std::int64_t i = 0; i < n; ++i)  // the weight is the rounded master, to nearest even
            ASSERT_EQ(get(one.weight, 0, i), reference_kernels::round_to(weights, get(one.master, 0, i)));
          for (const auto& [a, b] : {std::pair{&one.master, &two.master}, {&one.m, &two.m}, {&one.v, &two.v}, {&one.weight, &two.weight}}) {
            EXPECT_TRUE(same_bits(*a, *b));
            EXPECT_TRUE(a->fences_stand());
          }
        }
}

// By hand, from zero moments: after the corrections the first step is lr · sign(gradient), whatever its size, and the decay does
// not pass through the moments.
TEST(AdamW, TheFirstStepIsLrTimesSign) {
  for (const std::string_view isa : runnable()) {
    Machine machine(isa, 1);
    for (const double g : {1e-3, -4.0}) {
      Fenced gradient = constant_matrix(DType::f32, 1, 20, g), master = constant_matrix(DType::f32, 1, 20, 2),
             m = constant_matrix(DType::f32, 1, 20, 0), v = m, weight(DType::bf16, 1, 20);
      machine.kernels().adamw(machine.context(), gradient, {.lr = 0.25, .weight_decay = 0.5, .step = 1}, master, m, v, weight);
      EXPECT_NEAR(get(master, 0, 19), 2 - 0.25 * ((g > 0 ? 1 : -1) + 0.5 * 2), 1e-5) << isa;
      EXPECT_NEAR(get(m, 0, 19), 0.1 * g, 1e-6 * std::abs(g));
      EXPECT_NEAR(get(v, 0, 19), 0.05 * g * g, 1e-6 * g * g);
    }
  }
}

TEST(SumSquares, MatchesTheTwin) {
  for_each_case([](std::string_view isa, DType dtype) {
    for (const std::int64_t n : {0, 1, 37, 65'536, 65'537, 300'011}) {
      const Fenced x = random_matrix(dtype, 1, n, 1);
      Machine twin("reference", 1), one(isa, 1), two(isa, 2);
      const double want = twin.kernels().sum_squares(twin.context(), x);
      const double got = one.kernels().sum_squares(one.context(), x);
      EXPECT_NEAR(got, want, want * 65536 * 0x1p-53) << n;  // a chunk's terms, one by one in double
      EXPECT_EQ(got, two.kernels().sum_squares(two.context(), x));
    }
  });
}

// Squares of large gradients do not overflow, those of small ones do not vanish.
TEST(SumSquares, HasTheRangeOfDouble) {
  for (const std::string_view isa : runnable()) {
    Machine machine(isa, 1);
    EXPECT_DOUBLE_EQ(machine.kernels().sum_squares(machine.context(), constant_matrix(DType::f32, 1, 2, 0x1p100)), 0x1p201) << isa;
    EXPECT_DOUBLE_EQ(machine.kernels().sum_squares(machine.context(), constant_matrix(DType::f32, 1, 2, 0x1p-100)), 0x1p-199) << isa;
  }
}

}  // namespace
}  // namespace finback::kernels::test
