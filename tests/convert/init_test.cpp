// Initial values, streamed: those of a model that was initialised in memory.
#include "convert/init.h"

#include "formats/convert.h"
#include "tests/convert/fp8_folder.h"
#include "tests/formats/small_model.h"

namespace finback::convert {
namespace {

using core::DType;
using finback::testing::put_file;
using finback::testing::read_folder;
using finback::testing::read_tensors;
using finback::testing::SmallModel;
using finback::testing::TempFolder;

TEST(Init, StreamedValuesAreThoseInMemory) {
  const TempFolder folder;
  SmallModel model;
  model.initialise(7);
  for (const auto& [target, dtype] : {std::pair{Target::fp32, DType::f32}, {Target::bf16, DType::bf16}}) {
    initialise_folder(folder / "streamed", model.config, {.seed = 7, .target = target}, model.team);
    formats::save_model(folder / "saved", model.config, model.list, model.weights, {.dtype = dtype});
    const auto streamed = read_tensors(folder / "streamed"), saved = read_tensors(folder / "saved");
    EXPECT_EQ(streamed.size(), saved.size());
    for (const auto& [name, t] : saved) {
      EXPECT_EQ(streamed.at(name).dtype, t.dtype) << name;
      EXPECT_TRUE(streamed.at(name).bytes == t.bytes) << name;
    }
    for (const char* name : {"config.json", "generation_config.json"})
      EXPECT_EQ(core::read_file(folder / ("streamed/" + std::string(name)), 1 << 20),
                core::read_file(folder / ("saved/" + std::string(name)), 1 << 20));
  }
}

TEST(Init, Fp8IsTheConversionOfItsFp32AndReplacesWhatLayThere) {
  const TempFolder folder;
  SmallModel model;
  core::make_directories(folder / "model");
  put_file(folder / "model/tokenizer.json", "{}");
  initialise_folder(folder / "model", model.config, {.seed = 7, .target = Target::fp32, .shard_bytes = 2000}, model.team);
  EXPECT_TRUE(core::exists(folder / "model/model.safetensors.index.json"));
  initialise_folder(folder / "model", model.config, {.seed = 7, .target = Target::fp8}, model.team);
  std::vector<std::string> names;
  for (const auto& [name, _] : read_folder(folder / "model")) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}));

  SmallModel back;
  formats::ModelFolder(folder / "model").load(back.list, back.team, back.weights);
  model.initialise(7);
  for (const auto& p : model.list.parameters)
    for (std::int64_t i = 0; i < p.size(); ++i) {
      const float want = model.weights.of(p).row<float>(0)[i];
      // Half a step of E4M3 at the largest weight of a block; BF16 elsewhere. Initial weights lie within 0.12.
      ASSERT_NEAR(back.weights.of(p).row<float>(0)[i], want, p.fp8 ? 0.12 / 16 : std::abs(want) / 256) << p.name;
    }
}

}  // namespace
}  // namespace finback::convert
