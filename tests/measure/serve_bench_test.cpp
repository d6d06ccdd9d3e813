// bench decode and prefill count what a step reads and computes.
#include "measure/serve_bench.h"

#include "core/error.h"
#include "formats/hf_folder.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace finback::measure {
namespace {

TEST(ServeBench, CountsWhatAStepReads) {
  const std::string folder = testing::TempDir() + "/serve_bench";
  model::ModelConfig c = model::read_config(FINBACK_SOURCE_DIR "/configs/models/tiny.json");
  c.num_hidden_layers = 2;
  c.vocab_size = 300;
  c.max_position_embeddings = 200;
  const model::ParameterList list = model::list_parameters(c);
  core::Team team(1);
  core::Arena arena("weights", 64 << 20);
  const model::SlabBuffers weights = model::take_slabs(arena, list, core::DType::f32);
  model::initialise(c, list, 1, team, weights);
  formats::save_model(folder, c, list, weights, {.dtype = core::DType::bf16});

  const ServeBenchOptions options{.model = folder, .batch = {1, 8}, .context = {100}, .threads = 1, .seconds = 0.02};
  const std::vector<ServeSpeed> decode = bench_decode(options);
  ASSERT_EQ(decode.size(), 2u);
  // One MoE layer: a token meets its experts, eight tokens meet no more than all.
  EXPECT_EQ(decode[0].experts, static_cast<double>(c.num_experts_per_tok));
  EXPECT_GT(decode[1].experts, decode[0].experts);
  EXPECT_LE(decode[1].experts, static_cast<double>(c.n_routed_experts));
  EXPECT_GT(decode[1].weight_bytes, decode[0].weight_bytes);
  const double row = 2.0 * 2 * static_cast<double>(c.kv_lora_rank + c.qk_rope_head_dim);  // two layers in bf16
  EXPECT_GE(decode[0].cache_bytes, 100 * row);
  EXPECT_LE(decode[0].cache_bytes, 200 * row);
  for (const ServeSpeed& s : decode) {
    EXPECT_GT(s.steps, 0);
    EXPECT_GT(s.tokens_per_s, 0);
    EXPECT_GE(s.median_seconds, s.seconds);
    EXPECT_GT(s.share_of_ceiling(), 0);
  }
  const std::vector<ServeSpeed> prefill = bench_prefill(options);
  ASSERT_EQ(prefill.size(), 1u);
  EXPECT_GT(prefill[0].gflop, 10 * decode[0].gflop);
  EXPECT_THROW(bench_decode({.model = folder, .context = {195}, .threads = 1}), core::Error);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace finback::measure
