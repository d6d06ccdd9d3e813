#include "convert/plan.h"

#include "core/json.h"
#include "formats/fp8.h"
#include "tests/convert/published.h"

#include <gtest/gtest.h>

#include <set>

namespace finback::convert {
namespace {

const Plan& published_plan() {
  static const Plan plan = make_plan(weights_of(model::list_parameters(finback::testing::published_config()), Target::fp8), kShardBytes);
  return plan;
}

// The parameter counter of the published folder: F8_E4M3 680,571,043,840 · BF16 3,918,786,560 · F32 41,555,600; 91,991 tensors.
TEST(PublishedPlan, HasTheCountsOfThePublishedFolder) {
  const Plan& plan = published_plan();
  const auto sums = plan.sums();
  ASSERT_EQ(sums.size(), 3u);
  EXPECT_EQ(sums.at("F8_E4M3").bytes, 680'571'043'840u);
  EXPECT_EQ(sums.at("BF16").bytes, std::uint64_t{2} * 3'918'786'560);
  EXPECT_EQ(sums.at("F32").bytes, std::uint64_t{4} * 41'555'600);
  EXPECT_EQ(sums.at("F8_E4M3").tensors + sums.at("BF16").tensors + sums.at("F32").tensors, 91'991);
  const auto index = core::parse_json(plan.index, "index", {.max_bytes = 1 << 28});
  EXPECT_EQ(index.at("metadata").at("total_size").to_number<std::uint64_t>(), 688'574'839'360u);
  EXPECT_EQ(index.at("weight_map").as_object().size(), 91'991u);
  EXPECT_NEAR(static_cast<double>(plan.shards.size()), 163, 3);
}

TEST(PublishedPlan, HasItsTypesShapesAndShardNames) {
  const Plan& plan = published_plan();
  std::map<std::string, formats::TensorInfo> tensors;
  for (std::size_t i = 0; i < plan.shards.size(); ++i) {
    const Shard& s = plan.shards[i];
    EXPECT_EQ(s.name, fmt::format("model-{:05}-of-{:06}.safetensors", i + 1, plan.shards.size()));
    EXPECT_LE(s.head.file_bytes - s.head.text.size(), kShardBytes);
    for (const auto& t : s.head.tensors) tensors[t.name] = t;
  }
  const auto expect = [&](const std::string& name, const char* dtype, const char* shape) {
    ASSERT_TRUE(tensors.contains(name)) << name;
    EXPECT_EQ(tensors[name].dtype, dtype) << name;
    EXPECT_EQ(tensors[name].shape_text(), shape) << name;
  };
  const std::string l3 = "model.layers.3.", l61 = "model.layers.61.";
  expect("model.embed_tokens.weight", "BF16", "[129280, 7168]");
  expect("lm_head.weight", "BF16", "[129280, 7168]");
  expect("model.norm.weight", "BF16", "[7168]");
  expect(l3 + "self_attn.kv_a_proj_with_mqa.weight", "F8_E4M3", "[576, 7168]");
  expect(l3 + "self_attn.kv_a_proj_with_mqa.weight_scale_inv", "F32", "[5, 56]");
  expect(l3 + "self_attn.o_proj.weight_scale_inv", "F32", "[56, 128]");
  expect(l3 + "self_attn.q_a_layernorm.weight", "BF16", "[1536]");
  expect(l3 + "mlp.gate.weight", "BF16", "[256, 7168]");
  expect(l3 + "mlp.gate.e_score_correction_bias", "F32", "[256]");
  expect(l3 + "mlp.experts.255.down_proj.weight", "F8_E4M3", "[7168, 2048]");
  expect(l3 + "mlp.experts.255.down_proj.weight_scale_inv", "F32", "[56, 16]");
  expect("model.layers.0.mlp.down_proj.weight_scale_inv", "F32", "[56, 144]");
  expect(l61 + "eh_proj.weight", "BF16", "[7168, 14336]");
  expect(l61 + "embed_tokens.weight", "BF16", "[129280, 7168]");
  expect(l61 + "shared_head.head.weight", "BF16", "[129280, 7168]");
  expect(l61 + "shared_head.norm.weight", "BF16", "[7168]");
  expect(l61 + "enorm.weight", "BF16", "[7168]");
  expect(l61 + "mlp.shared_experts.up_proj.weight", "F8_E4M3", "[2048, 7168]");
  EXPECT_FALSE(tensors.contains(l61 + "eh_proj.weight_scale_inv"));
}

TEST(PublishedPlan, EveryPartLiesWhereTheHeaderSays) {
  const Plan& plan = published_plan();
  std::set<std::size_t> data, scales;
  for (const Shard& s : plan.shards) {
    std::map<std::string, std::uint64_t> begins;
    for (const auto& t : s.head.tensors) {
      begins[t.name] = t.begin;
      EXPECT_EQ(t.begin % (t.dtype == "F32" ? 4 : t.dtype == "BF16" ? 2 : 1), 0u);
    }
    for (const Part& p : s.parts) {
      const Weight& w = plan.weights[p.weight];
      if (p.data) {
        EXPECT_TRUE(data.insert(p.weight).second);
        EXPECT_EQ(*p.data, begins.at(w.name));
      }
      if (p.scales) {
        EXPECT_TRUE(scales.insert(p.weight).second);
        EXPECT_EQ(*p.scales, begins.at(formats::scale_name(w.name)));
      }
    }
  }
  EXPECT_EQ(data.size(), plan.weights.size());
  // 62 layers of five attention matrices, three dense layers of three, 59 of 257 experts of three.
  EXPECT_EQ(scales.size(), 62u * 5 + 3 * 3 + 59 * 257 * 3);
}

std::vector<Weight> few_weights() {
  return {{.name = "a", .shape = {130, 200}, .rows = 130, .cols = 200, .to = core::DType::e4m3},
          {.name = "b", .shape = {7}, .cols = 7, .to = core::DType::bf16}};
}

TEST(PlanLike, TakesHeadsThatHoldExactlyTheWeights) {
  const auto shard = [](std::vector<formats::TensorInfo> tensors) {
    Shard s;
    s.name = "x.safetensors";
    s.head = formats::make_head(std::move(tensors), {});
    return s;
  };
  const formats::TensorInfo a{"a", "F8_E4M3", {130, 200}}, scale{"a_scale_inv", "F32", {2, 2}}, b{"b", "F32", {7}};
  const auto plan = plan_like(few_weights(), {shard({scale}), shard({b, a})}, "index");
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->weights[1].to, core::DType::f32) << "as the heads say";
  ASSERT_EQ(plan->shards[0].parts.size(), 1u);
  EXPECT_FALSE(plan->shards[0].parts[0].data);
  EXPECT_EQ(plan->shards[0].parts[0].scales, plan->shards[0].head.tensors[0].begin);

  EXPECT_FALSE(plan_like(few_weights(), {shard({a, b})}, "")) << "no scales";
  EXPECT_FALSE(plan_like(few_weights(), {shard({a, scale})}, "")) << "a weight is missing";
  EXPECT_FALSE(plan_like(few_weights(), {shard({a, scale, b, {"c", "F32", {1}}})}, "")) << "one too many";
  EXPECT_FALSE(plan_like(few_weights(), {shard({a, scale, b}), shard({b})}, "")) << "twice";
  EXPECT_FALSE(plan_like(few_weights(), {shard({a, {"a_scale_inv", "F32", {2, 1}}, b})}, "")) << "scales of another shape";
  EXPECT_FALSE(plan_like(few_weights(), {shard({a, scale, {"b", "F32", {8}}})}, "")) << "another shape";
  EXPECT_FALSE(plan_like(few_weights(), {shard({a, scale, {"b", "I64", {7}}})}, "")) << "no type of weights";
}

TEST(MakePlan, KeepsAWeightAndItsScalesTogetherAndCutsWhereItMust) {
  const Plan one = make_plan(few_weights(), kShardBytes);
  ASSERT_EQ(one.shards.size(), 1u);
  EXPECT_EQ(one.shards[0].name, "model.safetensors");
  EXPECT_EQ(one.index, "");
  const Plan two = make_plan(few_weights(), 100);
  ASSERT_EQ(two.shards.size(), 2u);
  EXPECT_EQ(two.shards[0].head.tensors.size(), 2u);
  EXPECT_EQ(two.shards[1].name, "model-00002-of-000002.safetensors");
}

}  // namespace
}  // namespace finback::convert
