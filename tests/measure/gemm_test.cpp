// What bench gemm says about a product must hold together, and a peer that misbehaves must not matter. Speed is of no interest here.
#include "measure/gemm.h"

#include "measure/layer.h"
#include "measure/peer.h"
#include "measure/speed.h"
#include "tests/formats/temp_folder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

namespace finback::measure {
namespace {

using core::DType;

void expect_consistent(const Gemm& shape) {
  core::Team team(1);
  const GemmSpeed s = gemm(kernels::best(), team, shape, "", 0.01);
  SCOPED_TRACE(fmt::format("{} pass {} groups {}", core::name_of(shape.dtype), static_cast<int>(shape.pass), shape.groups));
  const double flops = 2.0 * static_cast<double>(shape.m * shape.n * shape.k);
  EXPECT_GE(s.rounds, 5);
  EXPECT_GT(s.gflops, 0);
  EXPECT_GE(s.best_gflops, s.gflops);
  EXPECT_NEAR(s.gflops * 1e9 * s.seconds, flops, 1e-6 * flops);
  EXPECT_GT(s.ceiling_gflops, 0);
  EXPECT_GT(s.share_of_ceiling, 0);
  EXPECT_GT(s.gb_per_s, 0);
  EXPECT_GT(s.bandwidth_gb_per_s, 0);
  EXPECT_GT(s.share_of_bandwidth, 0);
  EXPECT_GE(s.share_of_roof, std::max(s.share_of_ceiling, s.share_of_bandwidth) * (1 - 1e-9));  // the roof is the lower of the two
  EXPECT_TRUE(s.level == "L2" || s.level == "L3" || s.level == "memory") << s.level;
  EXPECT_EQ(s.dense_gflops.has_value(), shape.groups > 1);
  EXPECT_EQ(s.share_of_dense.has_value(), shape.groups > 1);
  EXPECT_FALSE(s.peer_gflops || s.ratio_to_peer);
  EXPECT_EQ(s.peer, "");
}

TEST(Gemm, FiguresOfEveryPassAndTypeHoldTogether) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::e4m3})
    for (const Pass pass : {Pass::forward, Pass::backward_input, Pass::backward_weight}) {
      expect_consistent({.m = 64, .n = 64, .k = 192, .groups = 2, .dtype = dtype, .pass = pass, .uneven = true});
      expect_consistent({.m = 3, .n = 130, .k = 257, .dtype = dtype, .pass = pass, .packed = false});
    }
}

TEST(Layer, CountsWhatACallMoves) {
  core::Team team(1);
  const auto traffic = [&](const Gemm& shape) { return Layer(kernels::best(), team, shape).traffic(); };
  Traffic t = traffic({.m = 8, .n = 256, .k = 128});
  EXPECT_EQ(t.read, 2 * (8 * 128 + 256 * 128));
  EXPECT_EQ(t.written, 4 * 8 * 256);
  EXPECT_EQ(t.updated, 0);
  t = traffic({.m = 8, .n = 256, .k = 128, .groups = 4, .dtype = DType::e4m3});
  EXPECT_EQ(t.read, 2 * 8 * 128 + 4 * (256 * 128 + 2 * 4));
  t = traffic({.m = 8, .n = 256, .k = 128, .dtype = DType::f32, .pass = Pass::backward_weight});
  EXPECT_EQ(t.read, 4 * 8 * (128 + 256));
  EXPECT_EQ(t.updated, 4 * 256 * 128);
  EXPECT_EQ(t.moved(), t.read + 2 * t.updated);
}

TEST(Layer, ColdWeightsComeInCopies) {
  core::Team team(1);
  Gemm shape{.m = 1, .n = 1024, .k = 1024};
  EXPECT_EQ(Layer(kernels::best(), team, shape).copies(), 1);
  shape.cold = true;
  const Layer layer(kernels::best(), team, shape);
  EXPECT_GT(layer.copies(), 1);
  EXPECT_EQ(layer.all_traffic().read - layer.traffic().read, (layer.copies() - 1) * 1024 * 1024 * 2);
  EXPECT_EQ(layer.all_traffic().written, layer.traffic().written);
}

TEST(InTurn, EveryContenderHasItsTurnInEveryRound) {
  std::string order;
  int burst = 0;
  const auto contender = [&](char name) {
    return [&order, name](double seconds) {
      EXPECT_EQ(seconds, 0.25);
      order += name;
      return name == 'a' ? 1.0 : 2.0;
    };
  };
  const auto rates = in_turn({contender('a'), contender('b')}, 0.25, 0);
  EXPECT_EQ(order, "abababababab");  // a round that is not counted, then five
  EXPECT_EQ(rates, (std::vector<std::vector<double>>{{1, 1, 1, 1, 1}, {2, 2, 2, 2, 2}}));
  const Contender one = repeated(7, [&] { ++burst; });
  EXPECT_GT(one(1e-4), 0);
  EXPECT_GE(burst, 2);
}

TEST(Suite, HoldsTheTableAndTheGroups) {
  const auto suite = gemm_suite(DType::bf16);
  int hot = 0, cold = 0, grouped = 0;
  for (const Gemm& s : suite) {
    EXPECT_TRUE(s.packed && s.pass == Pass::forward && s.dtype == DType::bf16);
    (s.groups > 1 ? grouped : s.cold ? cold : hot) += 1;
    EXPECT_TRUE(s.groups == 1 || s.m / s.groups >= 64);
  }
  EXPECT_EQ(hot, 12);
  EXPECT_GE(cold, 3);
  EXPECT_EQ(grouped, 1);
}

class PeerTest : public ::testing::Test {
 protected:
  // A child that is a shell script.
  std::string script(const std::string& body) {
    std::string path = folder_ / "child";
    finback::testing::put_file(path, "#!/bin/sh\n" + body);
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  }
  finback::testing::TempFolder folder_;
};

constexpr double kPatience = 20;

TEST_F(PeerTest, AnswersWhatItReached) {
  const std::string program = script(R"(echo "ready child of $1 and $2"
while read -r command seconds; do echo "run $command $seconds" >> "$0.log"; echo 12.5; done
echo gone >> "$0.log")");
  {
    Peer peer(program, {"7", "bf16"}, kPatience);
    EXPECT_TRUE(peer.present());
    EXPECT_EQ(peer.name(), "child of 7 and bf16");
    EXPECT_EQ(peer.run(0.25, kPatience), 12.5);
    EXPECT_EQ(peer.run(0.01, kPatience), 12.5);
  }
  EXPECT_EQ(core::read_file(program + ".log", 1000), "run run 0.25\nrun run 0.01\ngone\n");  // and was told to go
}

TEST_F(PeerTest, IsAbsentWhereThereIsNone) {
  for (const std::string& program : {std::string(), folder_ / "nothing", folder_.path()}) {
    Peer peer(program, {}, kPatience);
    EXPECT_FALSE(peer.present());
    EXPECT_EQ(peer.name(), "");
    EXPECT_FALSE(peer.run(0.01, kPatience));
  }
}

TEST_F(PeerTest, ThatFailsIsAbsentFromThenOn) {
  for (const char* body : {"exit 1", "echo hello", "kill -SEGV $$", "echo ready"}) {
    Peer peer(script(body), {}, /*patience=*/2);
    EXPECT_FALSE(peer.present()) << body;
  }
  for (const char* answer : {"exit 1", "echo fast", "echo -1", "echo nan", "echo 1.5 GFLOPS", "kill -KILL $$", "exec sleep 1000"}) {
    Peer peer(script(fmt::format("echo ready child\nread -r line\n{}\nread -r line\necho 1\n", answer)), {}, kPatience);
    ASSERT_TRUE(peer.present()) << answer;
    EXPECT_FALSE(peer.run(0.01, /*patience=*/0.5)) << answer;
    EXPECT_FALSE(peer.present()) << answer;
    EXPECT_FALSE(peer.run(0.01, kPatience)) << answer;
    EXPECT_EQ(peer.name(), "child") << answer;
  }
}

TEST_F(PeerTest, IsMeasuredInTurnWithTheProduct) {
  core::Team team(1);
  const std::string program = script(R"(echo "ready $1 x $2 x $3, $4, $5, $6, $7"
while read -r command seconds; do echo 2; done)");
  const Gemm shape{.m = 3, .n = 128, .k = 64};
  const GemmSpeed s = gemm(kernels::best(), team, shape, program, 0.01);
  EXPECT_EQ(s.peer, "3 x 128 x 64, bf16, packed, 1, 1");
  EXPECT_EQ(s.peer_gflops, 2);
  EXPECT_NEAR(s.ratio_to_peer.value_or(0), s.gflops / 2, 1e-9 * s.gflops);

  // One that stops answering is left out; what it has no product for, it is not asked.
  const std::string tired = script(R"(echo ready tired
for i in 1 2 3; do read -r command seconds; echo 2; done)");
  EXPECT_FALSE(gemm(kernels::best(), team, shape, tired, 0.01).peer_gflops);
  EXPECT_EQ(gemm(kernels::best(), team, {.m = 3, .n = 128, .k = 64, .dtype = DType::e4m3}, program, 0.01).peer, "");
}

// The real one, where it is built.
TEST(OneDnn, MultipliesWhatItIsAskedFor) {
  const std::string program = std::filesystem::path(FINBACK_BINARY).parent_path() / "bench" / "finback_onednn_gemm";
  if (!std::filesystem::exists(program)) GTEST_SKIP() << "no oneDNN: no peer";
  core::Team team(2);
  const auto expect_answers = [&](const Gemm& shape) {
    const GemmSpeed s = gemm(kernels::best(), team, shape, program, 0.01);
    EXPECT_EQ(s.peer.rfind("oneDNN ", 0), 0u) << s.peer;
    EXPECT_GT(s.peer_gflops.value_or(0), 0);
  };
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const bool packed : {true, false}) expect_answers({.m = 5, .n = 192, .k = 70, .dtype = dtype, .packed = packed});
  Peer with_copies(program, {"5", "192", "70", "bf16", "packed", /*copies=*/"3", "1"}, kPatience);
  EXPECT_GT(with_copies.run(0.01, kPatience).value_or(0), 0);
}

}  // namespace
}  // namespace finback::measure
