// Weights in memory: packed ones have the logits of the folder's, a damaged checkpoint is refused by name.
#include "infer/loaded_model.h"

#include "core/file.h"
#include "core/rng.h"
#include "tests/infer/small_model.h"

#include <algorithm>
#include <cstring>

namespace finback::infer {
namespace {

class LoadedModelTest : public testing::TestWithParam<const char*> {
 protected:
  core::Team team_{2};
  test::SmallModel small_{"loaded", GetParam(), team_};
};

TEST_P(LoadedModelTest, PackedWeightsHaveTheLogitsOfTheFolders) {
  const LoadedModel model(small_.folder(), team_);
  constexpr std::int64_t T = 90, W = test::kVocabulary;
  const core::Rng rng(3, core::Stream::test);
  std::vector<std::int32_t> ids;
  for (std::uint64_t i = 0; i < T; ++i) ids.push_back(static_cast<std::int32_t>(rng.below(i, W)));
  std::vector<float> got(T * W), want(T * W);
  score(model, team_, ids, core::mat(got.data(), core::DType::f32, T, W));
  const auto& packed = model.weights().packed;
  EXPECT_GE(std::count(packed.begin(), packed.end(), true), 3);  // of three layers

  core::Arena memory("weights", 64 << 20), scratch("scratch", kernels::scratch_bytes(2));
  const model::SlabBuffers rows = model::take_slabs(memory, model.list(), model.precision().storage);
  formats::ModelFolder(small_.folder()).load(model.list(), team_, rows);
  model::Transformer transformer(model.config(), model.list(), {.precision = model.precision(), .max_tokens = T, .max_seq_len = T});
  transformer.logits({kernels::best(), team_, scratch}, rows, ids, core::mat(want.data(), core::DType::f32, T, W));
  EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0);
}

TEST_P(LoadedModelTest, AFlippedBitInACheckpointIsNamed) {
  const std::string& folder = small_.folder();
  formats::Manifest manifest;
  manifest.add_file(folder, "model.safetensors");
  core::make_directories(folder + "/train_state");
  manifest.write(fmt::format("{}/{}", folder, formats::kManifestPath));
  EXPECT_NO_THROW(LoadedModel(folder, team_));
  std::string bytes = core::read_file(folder + "/model.safetensors", 1 << 30);
  bytes[formats::SafetensorsFile(folder + "/model.safetensors").find("model.norm.weight")->begin + 1] ^= 8;
  core::write_file_atomic(folder + "/model.safetensors", bytes);
  try {
    LoadedModel(folder, team_);
    ADD_FAILURE();
  } catch (const core::Error& e) {
    EXPECT_EQ(e.code(), core::Exit::bad_input);
    EXPECT_NE(std::string_view(e.what()).find("tensor 'model.norm.weight' differs"), std::string_view::npos) << e.what();
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, LoadedModelTest, testing::Values("bfloat16", "float32"),
                         [](const auto& tested) { return std::string(tested.param); });

}  // namespace
}  // namespace finback::infer
