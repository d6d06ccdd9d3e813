#include "tests/kernels/rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace finback::kernels::test {
namespace {

TEST(Permute, GatherCopiesRows) {
  for_each_case([](std::string_view isa, DType dtype) {
    const Fenced x = random_matrix(dtype, 37, 129, 1, 1, /*gap=*/1);
    const auto tokens = random_indices(600, 37, 2);
    expect_row_wise(isa, dtype, 600, 129, {}, [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat y) {
      ctx.kernels.gather_rows(ctx, x, part(tokens, first, rows), y);
    });
  });
}

// T tokens that each chose K of E experts, and the slots (ordered by expert) where their results lie. Few tokens leave experts
// without any.
struct Routing {
  Fenced ids, slots;
  Routing(std::int64_t T, std::int64_t E, std::int64_t K) : ids(DType::i32, T, K), slots(DType::i32, T, K) {
    const core::Rng rng(1, core::Stream::test, 9);
    std::vector<std::int64_t> expert(static_cast<std::size_t>(E));
    std::iota(expert.begin(), expert.end(), 0);
    std::vector<std::pair<std::int64_t, std::int64_t>> order;  // expert, token · K + choice
    for (std::int64_t t = 0; t < T; ++t) {
      for (std::int64_t k = 0; k < K; ++k)
        std::swap(
            expert[static_cast<std::size_t>(k)],
            expert[static_cast<std::size_t>(k) + rng.below(static_cast<std::uint64_t>(t * K + k), static_cast<std::uint64_t>(E - k))]);
      std::sort(expert.begin(), expert.begin() + K);
      for (std::int64_t k = 0; k < K; ++k) {
        put(ids, t, k, static_cast<double>(expert[static_cast<std::size_t>(k)]));
        order.emplace_back(expert[static_cast<std::size_t>(k)], t * K + k);
      }
    }
    std::sort(order.begin(), order.end());
    for (std::size_t s = 0; s < order.size(); ++s) put(slots, order[s].second / K, order[s].second % K, static_cast<double>(s));
  }
};

// With sums that are exact the result is that of the twin, bit for bit: in the type's rounding of each group and of the total.
TEST(Permute, CombineIsTheTwinBitForBitOnExactSums) {
  for_each_case([](std::string_view isa, DType dtype) {
    struct Case {
      std::int64_t T, E, K, groups, D;
    };
    for (const Case& c : {Case{200, 32, 4, 4, 129}, Case{30, 16, 8, 8, 512}, Case{10, 64, 1, 1, 5}, Case{20, 6, 6, 3, 70}})
      for (const bool with_addend : {false, true}) {
        SCOPED_TRACE(fmt::format("{} of {} experts in {} groups, addend {}", c.K, c.E, c.groups, with_addend));
        const Routing routing(c.T, c.E, c.K);
        const Fenced y = exact_matrix(dtype, c.T * c.K, c.D, 1, /*gap=*/1), addend = exact_matrix(dtype, c.T, c.D, 2);
        expect_row_wise(isa, dtype, c.T, c.D, {}, [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat out) {
          ctx.kernels.combine_rows(ctx, y, routing.ids.mat().row_range(first, rows), routing.slots.mat().row_range(first, rows),
                                   c.E / c.groups, with_addend ? addend.mat().row_range(first, rows) : ConstMat{}, out);
        });
      }
  });
}

// The order of kernels.h by hand: bf16 has 8 bits, so that 256 + 1 rounds to 256 within a group, and so does 256 + 1 of the next;
// in one sum it would be 258.
TEST(Permute, CombineRoundsEachGroup) {
  for (const std::string_view isa : runnable()) {
    Machine machine(isa, 1);
    Fenced y = constant_matrix(DType::bf16, 3, 1, 1), ids(DType::i32, 1, 3), slots(DType::i32, 1, 3), out(DType::bf16, 1, 1);
    put(y, 0, 0, 256);
    const double experts[] = {0, 1, 5};
    for (std::int64_t k = 0; k < 3; ++k) {
      put(slots, 0, k, static_cast<double>(k));
      put(ids, 0, k, experts[k]);
    }
    machine.kernels().combine_rows(machine.context(), y, ids, slots, /*experts_per_group=*/4, {}, out);
    EXPECT_EQ(get(out, 0, 0), 256) << isa;
    machine.kernels().combine_rows(machine.context(), y, ids, slots, /*experts_per_group=*/8, {}, out);
    EXPECT_EQ(get(out, 0, 0), 258) << isa;
  }
}

}  // namespace
}  // namespace finback::kernels::test
