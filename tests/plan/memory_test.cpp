#include "plan/memory_report.h"

#include "comm/threads.h"
#include "core/json.h"
#include "tests/convert/published.h"
#include "train/trainer.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace finback::plan {
namespace {

// With one rank, and whatever the precision, it is what the trainer takes, to the page.
TEST(MemoryReport, OfOneRankIsTheTrainers) {
  const model::ModelConfig config = model::read_config(FINBACK_SOURCE_DIR "/configs/models/small.json");
  const model::ParameterList list = model::list_parameters(config);
  for (const auto& [precision, storage] : {std::pair{"fp32", "full"}, {"bf16", "bf16"}, {"fp8", "paper"}}) {
    train::RunConfig run;
    run.train.precision = precision;
    run.train.activation_storage = storage;
    run.train.micro_batch = 4;
    run.data.seq_len = 512;
    const train::MemoryByKind taken = train::Trainer::memory_needed(run, config, list, 2);
    const MemoryReport report = report_memory({.config = config,
                                               .precision = train::precision_of(run),
                                               .storage = model::activation_storage_of(storage),
                                               .sequences = 4,
                                               .seq_len = 512});
    ASSERT_EQ(report.ranks.size(), 1u);
    const parallel::RankBytes& planned = report.ranks[0];
    EXPECT_EQ(train::in_pages(planned.weights), taken.weights) << precision;
    EXPECT_EQ(train::in_pages(planned.gradients), taken.gradients) << precision;
    EXPECT_EQ(train::in_pages(planned.master), taken.master) << precision;
    EXPECT_EQ(train::in_pages(planned.moments), taken.moments) << precision;
    const auto activations = static_cast<double>(taken.activations);
    EXPECT_NEAR(static_cast<double>(train::in_pages(planned.activations)), activations, 0.01 * activations) << precision;
  }
}

// … and of the ranks of a layout, each with its own part and its own shares.
TEST(MemoryReport, OfRanksIsTheTrainers) {
  const model::ModelConfig config = model::read_config(FINBACK_SOURCE_DIR "/configs/models/small.json");
  const model::ParameterList list = model::list_parameters(config);
  const auto check = [&](const parallel::Layout& layout, parallel::ScheduleKind kind, const char* name) {
    const model::Precision precision = model::precision_of(name);
    const parallel::Stages stages = parallel::cut_stages(config, 512, parallel::stages_of(kind, layout.pp));
    std::vector<train::MemoryByKind> taken(static_cast<std::size_t>(layout.pp * layout.dp));
    comm::run_threads(layout.pp * layout.dp, {}, [&](comm::Communicator& ranks) {
      const parallel::Member member(ranks, list, layout, kind, stages);
      taken[static_cast<std::size_t>(ranks.rank())] =
          train::TrainState::memory_needed(member.part().list, precision, core::DType::bf16, &member);
    });
    const auto planned = parallel::bytes_per_rank(
        {.config = config, .precision = precision, .seq_len = 512, .micro_batches = 4, .layout = layout, .schedule = kind}, stages);
    ASSERT_EQ(planned.size(), taken.size());
    for (std::size_t r = 0; r < taken.size(); ++r) {
      EXPECT_EQ(train::in_pages(planned[r].weights), taken[r].weights) << name << ' ' << r;
      EXPECT_EQ(train::in_pages(planned[r].gradients), taken[r].gradients) << name << ' ' << r;
      EXPECT_EQ(train::in_pages(planned[r].master), taken[r].master) << name << ' ' << r;
      EXPECT_EQ(train::in_pages(planned[r].moments), taken[r].moments) << name << ' ' << r;
    }
  };
  for (const char* name : {"fp32", "bf16", "fp8"}) {
    check({.dp = 3}, parallel::ScheduleKind::one_f_one_b, name);
    check({.pp = 2, .dp = 4, .ep = 2}, parallel::ScheduleKind::zb1p, name);
    check({.pp = 2, .dp = 2, .ep = 2}, parallel::ScheduleKind::dualpipe, name);
    check({.pp = 2, .dp = 1}, parallel::ScheduleKind::dualpipev, name);
  }
}

TEST(MemoryReport, SaysWhatEachRankHolds) {
  const MemoryReport report = report_memory({.config = finback::testing::published_config(),
                                             .precision = model::precision_of("bf16"),
                                             .seq_len = 4096,
                                             .micro_batches = 32,
                                             .layout = {.pp = 8, .dp = 16, .ep = 16},
                                             .schedule = parallel::ScheduleKind::dualpipe});
  const std::string text = describe(report);
  EXPECT_NE(text.find("128 ranks: PP 8 × DP 16, EP 16; dualpipe, 32 micro-batches of 1 × 4096 tokens a rank"), std::string::npos) << text;
  EXPECT_NE(text.find(" 0  embedding, 0–"), std::string::npos) << text;
  EXPECT_NE(text.find("–60, head, MTP"), std::string::npos) << text;
  const auto json = to_json(report);
  EXPECT_EQ(json.at("layout").at("world").to_number<int>(), 128);
  EXPECT_EQ(json.at("per_rank").as_array().size(), 8u);
  std::int64_t most = 0;
  for (const auto& rank : json.at("per_rank").as_array()) {
    EXPECT_EQ(rank.at("stages").as_array().size(), 2u);
    most = std::max(most, rank.at("total").as_int64());
  }
  EXPECT_EQ(json.at("largest_bytes").as_int64(), most);
}

}  // namespace
}  // namespace finback::plan
