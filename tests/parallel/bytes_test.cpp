#include "parallel/bytes.h"

#include "core/error.h"
#include "tests/convert/published.h"
#include "tests/model/odd_shape.h"

#include <gtest/gtest.h>

namespace finback::parallel {
namespace {

constexpr std::int64_t kAlignment = 64;  // of an arena, for each slab

std::int64_t sum(const std::vector<RankBytes>& ranks, std::int64_t RankBytes::*kind) {
  std::int64_t total = 0;
  for (const RankBytes& r : ranks) total += r.*kind;
  return total;
}

TrainingShape shape_of(ScheduleKind kind, Layout layout) {
  return {.config = model::odd_shape(),
          .precision = model::precision_of("bf16"),
          .sequences = 2,
          .seq_len = 16,
          .micro_batches = 8,
          .layout = layout,
          .schedule = kind};
}

std::vector<RankBytes> bytes_of(const TrainingShape& s) {
  return bytes_per_rank(s, cut_stages(s.config, s.seq_len, stages_of(s.schedule, s.layout.pp)));
}

// Each master and each moment is in the world once, whatever the layout; each compute copy and gradient as often as it is replicated.
TEST(Bytes, OverTheWorldAddUp) {
  const model::ParameterList list = model::list_parameters(model::odd_shape());
  std::int64_t dense = 0, experts = 0, embedding = 0, biases = 0;
  for (const model::Slab& s : list.slabs) {
    if (!s.trained) biases += s.size();
    else if (s.role == model::Role::expert) experts += s.size();
    else dense += s.size();
    if (s.role == model::Role::embedding) embedding = s.size();
  }
  for (const ScheduleKind kind : kScheduleKinds)
    for (const Layout& layout : {Layout{.pp = 2, .dp = 1}, Layout{.pp = 2, .dp = 4, .ep = 2}, Layout{.pp = 4, .dp = 8, .ep = 8}}) {
      const auto ranks = bytes_of(shape_of(kind, layout));
      ASSERT_EQ(ranks.size(), static_cast<std::size_t>(layout.pp * layout.dp));
      const int copies = kind == ScheduleKind::dualpipe ? 2 : 1;
      const bool ends_apart = kind == ScheduleKind::one_f_one_b || kind == ScheduleKind::zb1p;
      const std::int64_t replicated =
          copies * (dense * layout.dp + experts * layout.dp / layout.ep) + (ends_apart ? embedding * layout.dp : 0);
      // Aligned, slab by slab.
      const auto slack = static_cast<std::int64_t>(list.slabs.size() + 1) * copies * layout.dp * kAlignment;
      const auto near = [&](std::int64_t got, std::int64_t want, int arrays = 1) {
        EXPECT_GE(got, want) << name_of(kind) << " " << layout.pp << " " << layout.dp << " " << layout.ep;
        EXPECT_LE(got, want + arrays * slack) << name_of(kind) << " " << layout.pp << " " << layout.dp << " " << layout.ep;
      };
      near(sum(ranks, &RankBytes::master), 4 * (dense + experts + copies * layout.dp * biases));
      near(sum(ranks, &RankBytes::moments), 2 * 2 * (dense + experts), 2);
      near(sum(ranks, &RankBytes::gradients), 4 * replicated);
      near(sum(ranks, &RankBytes::weights), 2 * replicated + 4 * copies * layout.dp * biases);
    }
}

// Without a second rank that has a share of them, FP32 masters are the compute copy.
TEST(Bytes, MastersServeWhereTheyAreWhole) {
  TrainingShape s = shape_of(ScheduleKind::one_f_one_b, {.pp = 2});
  s.precision = model::precision_of("fp32");
  TrainingShape without_mtp = s;  // with it the embedding is held at both ends
  without_mtp.config.num_nextn_predict_layers = 0;
  EXPECT_EQ(sum(bytes_of(without_mtp), &RankBytes::weights), 0);
  s.layout.dp = 2;
  EXPECT_GT(sum(bytes_of(s), &RankBytes::weights), 0);
  // Experts spread over all of DP are whole again; MTP's copy of the embedding is one like the others.
  s.layout = {.pp = 2, .dp = 2, .ep = 2};
  const model::ParameterList list = model::list_parameters(s.config);
  std::int64_t copied = 0;
  for (const model::Slab& slab : list.slabs)
    if (slab.role != model::Role::expert) copied += slab.size() * (slab.role == model::Role::embedding ? 2 : 1);
  const std::int64_t weights = sum(bytes_of(s), &RankBytes::weights);
  EXPECT_GE(weights, 2 * 4 * copied);
  EXPECT_LE(weights, 2 * (4 * copied + static_cast<std::int64_t>(list.slabs.size() + 1) * kAlignment));
}

// In even stages the peaks of the schedules show: 1F1B's first rank keeps PP, its last 1, and DualPipe's all PP + 1.
TEST(Bytes, ActivationsFollowTheSchedule) {
  TrainingShape s = shape_of(ScheduleKind::one_f_one_b, {.pp = 4});
  s.config.num_nextn_predict_layers = 0;
  s.config.first_k_dense_replace = 0;
  s.config.num_hidden_layers = 8;
  const Stages even{{0, 2, 4, 6, 8}};
  const auto kept = model::kept_tensors(s.config, s.precision, s.storage);
  ASSERT_EQ(kept.size(), 2u);
  const std::int64_t block = kept[0].bytes_per_token() * 32, between = kept[1].bytes_per_token() * 32;
  const auto one = bytes_per_rank(s, even);
  EXPECT_EQ(one[0].activations, 4 * 2 * block);
  EXPECT_EQ(one[2].activations, 2 * 2 * block);
  EXPECT_EQ(one[3].activations, 2 * block + between);
  s.schedule = ScheduleKind::dualpipe;
  const auto dual = bytes_per_rank(s, even);
  EXPECT_EQ(dual[0].activations, 5 * (2 * block + between));
  EXPECT_EQ(dual[1].activations, 5 * 2 * block);
  EXPECT_EQ(dual[3].activations, dual[0].activations);
}

// DeepSeek-V3 in its own layout fits the 80 GB of its GPUs, with both of DualPipe's copies; on an eighth of the ranks it does not.
TEST(Bytes, ThePublishedLayoutFitsItsMachines) {
  TrainingShape s{.config = finback::testing::published_config(),
                  .precision = model::precision_of("fp8"),
                  .storage = model::ActivationStorage::paper,
                  .seq_len = 4096,
                  .micro_batches = 120,
                  .layout = {.pp = 16, .dp = 128, .ep = 64},
                  .schedule = ScheduleKind::dualpipe};
  std::int64_t most = 0;
  for (const RankBytes& r : bytes_of(s)) most = std::max(most, r.total());
  EXPECT_LT(most, 80'000'000'000);
  s.layout = {.pp = 16, .dp = 16, .ep = 8};
  most = 0;
  for (const RankBytes& r : bytes_of(s)) most = std::max(most, r.total());
  EXPECT_GT(most, 80'000'000'000);
}

TEST(Bytes, RefusesWhatDoesNotDivide) {
  EXPECT_THROW(bytes_of(shape_of(ScheduleKind::one_f_one_b, {.pp = 1, .dp = 4, .ep = 3})), core::Error);
  EXPECT_THROW(bytes_of(shape_of(ScheduleKind::one_f_one_b, {.pp = 1, .dp = 16, .ep = 16})), core::Error);
  EXPECT_THROW(bytes_of(shape_of(ScheduleKind::dualpipe, {.pp = 3})), core::Error);
  TrainingShape codes = shape_of(ScheduleKind::one_f_one_b, {});
  codes.storage = model::ActivationStorage::paper;
  EXPECT_THROW(bytes_of(codes), core::Error);
}

}  // namespace
}  // namespace finback::parallel
