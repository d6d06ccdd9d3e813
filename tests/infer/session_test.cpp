// The decode loop: a sequence read in any pieces has the logits, bit for bit, of reading it whole.
#include "infer/session.h"

#include "core/file.h"
#include "core/rng.h"
#include "formats/hf_folder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

namespace finback::infer {
namespace {

class SessionTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/session_" + GetParam();
    model::ModelConfig config = model::read_config(FINBACK_SOURCE_DIR "/configs/models/tiny.json");
    config.num_hidden_layers = 3;
    config.vocab_size = 200;
    config.torch_dtype = std::string(GetParam()) == "bf16" ? "bfloat16" : "float32";
    config.initializer_range = 0.1;
    const model::ParameterList list = model::list_parameters(config);
    core::Arena arena("weights", 64 << 20);
    const model::SlabBuffers weights = model::take_slabs(arena, list, core::DType::f32);
    model::initialise(config, list, 1, team_, weights);
    formats::save_model(folder_, config, list, weights, {.dtype = config.torch_dtype == "bfloat16" ? core::DType::bf16 : core::DType::f32});
    const core::Rng rng(3, core::Stream::test);
    for (std::uint64_t i = 0; i < 90; ++i) ids_.push_back(static_cast<std::int32_t>(rng.below(i, 200)));
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string folder_;
  core::Team team_{2};
  std::vector<std::int32_t> ids_;
};

TEST_P(SessionTest, AnySplitOfASequenceHasTheSameLogits) {
  const LoadedModel model(folder_, team_);
  std::vector<float> whole(90 * 200);
  Session(model, team_, 90).logits(ids_, core::mat(whole.data(), core::DType::f32, 90, 200));

  core::Team one(1);
  for (core::Team* team : {&team_, &one})
    for (const std::size_t piece : {1u, 7u, 32u, 90u}) {
      Session session(model, *team, 90);
      for (std::size_t begin = 0; begin < 90; begin += piece) {
        const std::size_t end = std::min<std::size_t>(90, begin + piece);
        const std::span<const float> last = session.extend(std::span(ids_).subspan(begin, end - begin));
        ASSERT_EQ(std::memcmp(last.data(), &whole[(end - 1) * 200], 200 * sizeof(float)), 0) << "pieces of " << piece << ", after " << end;
      }
      EXPECT_THROW(session.extend({ids_.data(), 1}), core::Error);
    }
}

TEST_P(SessionTest, PackedWeightsHaveTheLogitsOfTheFolders) {
  const LoadedModel model(folder_, team_);
  std::vector<float> got(90 * 200), want(90 * 200);
  Session(model, team_, 90).logits(ids_, core::mat(got.data(), core::DType::f32, 90, 200));
  const auto& packed = model.weights().packed;
  EXPECT_GE(std::count(packed.begin(), packed.end(), true), 3);  // of three layers

  core::Arena memory("weights", 64 << 20), scratch("scratch", kernels::scratch_bytes(2));
  const model::SlabBuffers rows = model::take_slabs(memory, model.list(), model.precision().storage);
  formats::ModelFolder(folder_).load(model.list(), team_, rows);
  model::Transformer transformer(model.config(), model.list(), {.precision = model.precision(), .max_tokens = 90, .max_seq_len = 90});
  transformer.logits({kernels::best(), team_, scratch}, rows, ids_, core::mat(want.data(), core::DType::f32, 90, 200));
  EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0);
}

TEST_P(SessionTest, AFlippedBitInACheckpointIsNamed) {
  formats::Manifest manifest;
  manifest.add_file(folder_, "model.safetensors");
  core::make_directories(folder_ + "/train_state");
  manifest.write(fmt::format("{}/{}", folder_, formats::kManifestPath));
  EXPECT_NO_THROW(LoadedModel(folder_, team_));
  std::string bytes = core::read_file(folder_ + "/model.safetensors", 1 << 30);
  bytes[formats::SafetensorsFile(folder_ + "/model.safetensors").find("model.norm.weight")->begin + 1] ^= 8;
  core::write_file_atomic(folder_ + "/model.safetensors", bytes);
  try {
    LoadedModel(folder_, team_);
    ADD_FAILURE();
  } catch (const core::Error& e) {
    EXPECT_EQ(e.code(), core::Exit::bad_input);
    EXPECT_NE(std::string_view(e.what()).find("tensor 'model.norm.weight' differs"), std::string_view::npos) << e.what();
  }
}

TEST_P(SessionTest, GenerationIsRepeatable) {
  const LoadedModel model(folder_, team_);
  std::vector<std::int32_t> first, second;
  for (auto* tokens : {&first, &second}) {
    Session session(model, team_, 40);
    const Generated g = generate(session, std::span(ids_).first(10), 30, -1, {.temperature = 0.9, .top_p = 0.9, .seed = 4},
                                 [&](std::int32_t id) { tokens->push_back(id); });
    EXPECT_EQ(g.tokens, 30);
  }
  EXPECT_EQ(first, second);
}

INSTANTIATE_TEST_SUITE_P(Precisions, SessionTest, testing::Values("bf16", "fp32"),
                         [](const auto& tested) { return std::string(tested.param); });

}  // namespace
}  // namespace finback::infer
