#include "tests/kernels/rows.h"

#include <gtest/gtest.h>

namespace finback::kernels::test {
namespace {

TEST(Embedding, ForwardCopiesRows) {
  for_each_case([](std::string_view isa, DType dtype) {
    const Fenced table = random_matrix(dtype, 50, 129, 1);
    const auto ids = random_indices(600, 50, 2);
    expect_row_wise(isa, dtype, 600, 129, {}, [&](const Context& ctx, std::int64_t first, std::int64_t rows, Mat x) {
      ctx.kernels.embedding_forward(ctx, table, part(ids, first, rows), x);
    });
  });
}

// Sums of eighths are exact, so that the result is the twin's bit for bit; tokens that do not occur keep what stood there.
TEST(Embedding, BackwardIsTheTwinBitForBitOnExactSums) {
  for_each_case([](std::string_view isa, DType dtype) {
    for (const std::int64_t T : {0, 1, 600})
      for (const std::int64_t vocabulary : {1, 70, 5000}) {
        const std::int64_t D = 150;
        const Fenced dx = exact_matrix(dtype, T, D, 1, /*gap=*/1);
        const auto ids = random_indices(T, vocabulary, 2);
        Fenced want = exact_matrix(DType::f32, vocabulary, D, 3, /*gap=*/2), one = want, two = want;
        Machine twin("reference", 1), machine_one(isa, 1), machine_two(isa, 2);
        twin.kernels().embedding_backward(twin.context(), dx, ids, want);
        machine_one.kernels().embedding_backward(machine_one.context(), dx, ids, one);
        machine_two.kernels().embedding_backward(machine_two.context(), dx, ids, two);
        EXPECT_TRUE(same_bits(one, want)) << T << " tokens of " << vocabulary;
        EXPECT_TRUE(same_bits(two, one));
        EXPECT_TRUE(one.fences_stand());
      }
  });
}

}  // namespace
}  // namespace finback::kernels::test
