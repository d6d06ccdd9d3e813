#include "formats/hf_folder.h"

#include "core/json.h"
#include "formats/convert.h"
#include "numerics/bf16.h"
#include "numerics/e4m3.h"
#include "numerics/f16.h"
#include "tests/formats/small_model.h"
#include "tests/formats/temp_folder.h"

#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>

namespace finback::formats {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Exit;
using finback::testing::expect_error;
using finback::testing::put_file;
using finback::testing::SmallModel;
using finback::testing::TempFolder;

bool equal(const SmallModel& a, const SmallModel& b) {
  for (const auto& p : a.list.parameters) {
    const core::Mat x = a.weights.of(p), y = b.weights.of(p);
    if (x.dtype != y.dtype || std::memcmp(x.data, y.data, static_cast<std::size_t>(x.bytes())) != 0) return false;
  }
  return true;
}

class HfFolder : public ::testing::Test {
 protected:
  HfFolder() { model_.initialise(7); }
  void save(SaveOptions options = {.dtype = DType::f32}) { save_model(path_, model_.config, model_.list, model_.weights, options); }
  void load(SmallModel& m) { ModelFolder(path_).load(m.list, m.team, m.weights); }
  // The folder's warnings.
  std::string warnings_of_load() {
    ::testing::internal::CaptureStderr();
    SmallModel m;
    load(m);
    return ::testing::internal::GetCapturedStderr();
  }
  // Rewrites model.safetensors with other tensors: keep(name) false drops one, extra ones are added.
  void rewrite(const std::function<void(std::vector<SafetensorsWriter::Entry>&, std::vector<std::string>&)>& change) {
    std::vector<SafetensorsWriter::Entry> entries;
    std::vector<std::string> data;
    {
      const SafetensorsFile f(path_ + "/model.safetensors");
      for (const TensorInfo& t : f.tensors()) {
        entries.push_back({t.name, *dtype_of(t.dtype), t.shape});
        data.emplace_back(t.bytes(), '\0');
        f.read(t, data.back().data());
      }
    }
    change(entries, data);
    SafetensorsWriter w(path_ + "/model.safetensors", entries);
    for (const auto& d : data) w.write(d.data(), d.size());
    w.commit();
  }
  void index(std::string_view weight_map) {
    core::sys::remove_tree(path_ + "/model.safetensors");
    put_file(path_ + "/model.safetensors.index.json", fmt::format("{{\"weight_map\":{}}}", weight_map));
  }

  TempFolder folder_;
  std::string path_ = folder_ / "model";
  SmallModel model_;
};

TEST_F(HfFolder, Float32RoundTripsBitForBit) {
  save();
  SmallModel back;
  load(back);
  EXPECT_TRUE(equal(model_, back));
  EXPECT_EQ(model::to_json(model::read_config(path_)).at("hidden_size"), 8);
  EXPECT_EQ(core::read_json_file(path_ + "/config.json").at("torch_dtype"), "float32");
}

TEST_F(HfFolder, ShardsHoldTheSameAndNoMoreThanAsked) {
  save({.dtype = DType::f32, .max_shard_bytes = 1000});
  EXPECT_FALSE(core::exists(path_ + "/model.safetensors"));
  SmallModel back;
  load(back);
  EXPECT_TRUE(equal(model_, back));
  const auto index = core::read_json_file(path_ + "/model.safetensors.index.json");
  const auto& map = index.at("weight_map").as_object();
  EXPECT_EQ(map.size(), model_.list.parameters.size() + model_.list.duplicates.size());
  std::uint64_t total = 0;
  const ModelFolder f(path_);
  EXPECT_GT(f.files().size(), 3u);
  for (const auto& file : f.files()) {
    std::uint64_t bytes = 0;
    for (const TensorInfo& t : file->tensors()) {
      bytes += t.bytes();
      EXPECT_EQ(t.begin % 4, 0u);
      EXPECT_EQ(fs::path(file->path()).filename().string(), map.at(t.name).as_string().c_str());
    }
    EXPECT_TRUE(bytes <= 1000 || file->tensors().size() == 1);
    total += bytes;
  }
  EXPECT_EQ(index.at("metadata").at("total_size").as_int64(), static_cast<std::int64_t>(total));
}

TEST_F(HfFolder, Bfloat16IsTheRoundedWeightAndTheGateBiasStaysWide) {
  save({.dtype = DType::bf16});
  const ModelFolder f(path_);
  EXPECT_EQ(f.find("model.layers.1.mlp.gate.e_score_correction_bias").info->dtype, "F32");
  EXPECT_EQ(f.find("model.layers.1.mlp.gate.weight").info->dtype, "BF16");
  EXPECT_EQ(f.find("model.layers.1.mlp.gate.weight").info->begin % 2, 0u);
  SmallModel wide, narrow(DType::bf16);
  load(wide);
  load(narrow);
  for (const auto& p : model_.list.parameters)
    for (std::int64_t i = 0; i < p.size(); ++i) {
      const float original = model_.weights.of(p).row<float>(0)[i];
      const numerics::bf16 rounded(original);
      ASSERT_EQ(wide.weights.of(p).row<float>(0)[i], p.keep_f32 ? original : static_cast<float>(rounded)) << p.name;
      if (p.keep_f32) continue;
      ASSERT_EQ(narrow.weights.of(p).row<numerics::bf16>(0)[i].bits, rounded.bits) << p.name;
    }
}

TEST_F(HfFolder, ReturnsWhatAManifestNeeds) {
  core::make_directories(folder_ / "tok");
  put_file(folder_ / "tok/tokenizer.json", "{}");
  Manifest m;
  for (FileSum& f : save_model(path_, model_.config, model_.list, model_.weights, {.max_shard_bytes = 2000, .tokenizer = folder_ / "tok"}))
    m.add(std::move(f));
  std::size_t in_folder = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(path_)) ++in_folder;
  EXPECT_EQ(m.files().size(), in_folder);
  EXPECT_TRUE(core::exists(path_ + "/tokenizer.json"));
  EXPECT_TRUE(m.verify(path_).empty());
}

TEST_F(HfFolder, MissingAndMisshapenTensorsAreNamedTogether) {
  save();
  rewrite([](auto& entries, auto& data) {
    for (std::size_t i = entries.size(); i-- > 0;) {
      if (entries[i].name == "model.norm.weight" || entries[i].name == "model.layers.1.mlp.experts.3.up_proj.weight") {
        entries.erase(entries.begin() + static_cast<std::ptrdiff_t>(i));
        data.erase(data.begin() + static_cast<std::ptrdiff_t>(i));
      } else if (entries[i].name == "lm_head.weight") {
        entries[i].shape = {8, 11};
      } else if (entries[i].name == "model.layers.1.mlp.gate.weight") {
        entries[i].dtype = DType::i32;
      }
    }
  });
  SmallModel m;
  expect_error(Exit::bad_input,
               {"tensors missing (2): ", "model.norm.weight", "experts.3.up_proj", "lm_head.weight [8, 11] instead of [11, 8]",
                "model.layers.1.mlp.gate.weight (I32)"},
               [&] { load(m); });
}

TEST_F(HfFolder, AConfigOfOtherWeightsIsAtFaultAndItsFieldNamed) {
  save();
  const auto config = core::read_json_file(path_ + "/config.json").as_object();
  for (const auto& [field, tensor] : {std::pair{"vocab_size", "lm_head.weight"}, {"kv_lora_rank", "kv_a_layernorm.weight"}}) {
    auto other = config;
    const std::int64_t size = config.at(field).as_int64();
    other[field] = size + 1;
    put_file(path_ + "/config.json", core::pretty_json(other));
    expect_error(Exit::usage, {tensor, fmt::format("{} is {}, the weights have {}", field, size + 1, size)},
                 [&] { ModelFolder(path_).check(model::list_parameters(model::read_config(path_))); });
  }
}

// FP8 as DeepSeek-V3's folder has it: codes times the scale of their block of 128 x 128.
class Fp8Weights : public HfFolder {
 protected:
  static constexpr const char* kName = "model.layers.0.mlp.gate_proj.weight";  // [12, 8]
  Fp8Weights() { save(); }
  void make_fp8(DType scale_type = DType::f32, std::vector<std::int64_t> scale_shape = {1, 1}) {
    rewrite([&](auto& entries, auto& data) {
      for (std::size_t i = 0; i < entries.size(); ++i)
        if (entries[i].name == kName) {
          entries[i].dtype = DType::e4m3;
          data[i].clear();
          for (int code = 0; code < 96; ++code) data[i].push_back(static_cast<char>(code % 2 ? code | 0x80 : code));
        }
      const float scale = 0.003f;
      entries.push_back({std::string(kName) + "_scale_inv", scale_type, std::move(scale_shape)});
      data.emplace_back(reinterpret_cast<const char*>(&scale), core::size_of(scale_type));
    });
  }
};

TEST_F(Fp8Weights, AreDequantisedToTheTypeAskedFor) {
  make_fp8();
  SmallModel wide, narrow(DType::bf16);
  load(wide);
  load(narrow);
  for (const auto& p : model_.list.parameters)
    for (std::int64_t i = 0; i < p.size(); ++i) {
      const auto code = static_cast<std::uint8_t>(i % 2 ? i | 0x80 : i);
      const float want =
          p.name == kName ? static_cast<float>(numerics::e4m3::from_bits(code)) * 0.003f : model_.weights.of(p).row<float>(0)[i];
      ASSERT_EQ(wide.weights.of(p).row<float>(0)[i], want) << p.name;
      if (p.keep_f32) continue;
      ASSERT_EQ(narrow.weights.of(p).row<numerics::bf16>(0)[i].bits, numerics::bf16(want).bits) << p.name;
    }
  EXPECT_EQ(warnings_of_load(), "") << "scales are no unknown tensors";
}

TEST_F(Fp8Weights, NeedTheirScales) {
  SmallModel m;
  rewrite([](auto& entries, auto& data) {
    for (std::size_t i = 0; i < entries.size(); ++i)
      if (entries[i].name == kName) entries[i].dtype = DType::e4m3, data[i].resize(96);
  });
  expect_error(Exit::bad_input, {"scales of FP8 weights missing (1)", kName}, [&] { load(m); });
  make_fp8(DType::bf16);
  expect_error(Exit::bad_input, {"dtype other than F32", "_scale_inv (BF16)"}, [&] { load(m); });
  save();
  make_fp8(DType::f32, {1});
  expect_error(Exit::bad_input, {"_scale_inv [1] instead of [1, 1]"}, [&] { load(m); });
}

TEST_F(Fp8Weights, NeedScalesAboveZero) {
  make_fp8();
  for (const float bad : {0.0f, -1.0f, INFINITY, NAN}) {
    rewrite([&](auto& entries, auto& data) {
      for (std::size_t i = 0; i < entries.size(); ++i)
        if (entries[i].name.ends_with("_scale_inv")) std::memcpy(data[i].data(), &bad, sizeof bad);
    });
    SmallModel m;
    expect_error(Exit::bad_input, {std::string(kName) + "_scale_inv' [0, 0] is"}, [&] { load(m); });
  }
}

TEST_F(HfFolder, ExtraTensorsAreOneWarning) {
  save();
  EXPECT_EQ(warnings_of_load(), "");
  rewrite([](auto& entries, auto& data) {
    for (const char* name : {"old.inv_freq", "old.other"}) {
      entries.push_back({name, DType::f32, {1}});
      data.emplace_back(4, '\0');
    }
  });
  const std::string warning = warnings_of_load();
  EXPECT_NE(warning.find("tensors that config.json does not ask for are left out (2): old.inv_freq, old.other"), std::string::npos)
      << warning;
  EXPECT_EQ(std::count(warning.begin(), warning.end(), '\n'), 1);
}

TEST_F(HfFolder, CopiesOfTheMtpModuleMayBeAbsentButNotDiffer) {
  save();
  const std::string copy = "model.layers.2.embed_tokens.weight";
  EXPECT_TRUE(ModelFolder(path_).find(copy));
  rewrite([&](auto& entries, auto& data) {
    for (std::size_t i = 0; i < entries.size(); ++i)
      if (entries[i].name == copy) data[i][5] ^= 1;
  });
  EXPECT_NE(warnings_of_load().find(copy + " differ"), std::string::npos);
  rewrite([&](auto& entries, auto& data) {
    for (std::size_t i = entries.size(); i-- > 0;)
      if (entries[i].name == copy) {
        entries.erase(entries.begin() + static_cast<std::ptrdiff_t>(i));
        data.erase(data.begin() + static_cast<std::ptrdiff_t>(i));
      }
  });
  EXPECT_EQ(warnings_of_load(), "");
}

TEST_F(HfFolder, AnIndexMayNotLeaveTheFolder) {
  save();
  fs::copy_file(path_ + "/model.safetensors", folder_ / "outside.safetensors");
  for (const char* name : {"../outside.safetensors", "/etc/passwd", "sub/../../outside.safetensors", ""}) {
    index(fmt::format(R"({{"a":"{}"}})", name));
    expect_error(Exit::bad_input, {"is not a path inside the folder"}, [&] { ModelFolder f(path_); });
  }
  index(R"({"a":"x\u0000y"})");
  expect_error(Exit::bad_input, {"is not a path inside the folder"}, [&] { ModelFolder f(path_); });
  fs::create_symlink("../outside.safetensors", path_ + "/link.safetensors");
  index(R"({"a":"link.safetensors"})");
  expect_error(Exit::bad_input, {"link.safetensors", "outside the folder"}, [&] { ModelFolder f(path_); });
  fs::create_symlink("../outside.safetensors", path_ + "/model.safetensors");
  expect_error(Exit::bad_input, {"model.safetensors", "outside the folder"}, [&] { ModelFolder f(path_); });
}

TEST_F(HfFolder, FollowsLinksInTheFolderAndIntoTheBlobsOfACache) {
  save();
  SmallModel m;
  fs::rename(path_ + "/model.safetensors", path_ + "/weights.safetensors");
  fs::create_symlink("weights.safetensors", path_ + "/model.safetensors");
  load(m);
  EXPECT_TRUE(equal(model_, m));

  const std::string cache = folder_ / "models--who--what", snapshot = cache + "/snapshots/0123abcd";
  fs::create_directories(snapshot);
  fs::create_directories(cache + "/blobs");
  fs::rename(path_ + "/weights.safetensors", cache + "/blobs/f00d");
  fs::create_symlink("../../blobs/f00d", snapshot + "/model.safetensors");
  SmallModel n;
  ModelFolder(snapshot).load(n.list, n.team, n.weights);
  EXPECT_TRUE(equal(model_, n));
  fs::create_symlink("snapshots/0123abcd", cache + "/current");  // the folder itself may be a link
  EXPECT_NO_THROW(ModelFolder(cache + "/current"));
}

TEST_F(HfFolder, FaultsOfAnIndexAreNamedTogether) {
  save();
  fs::copy_file(path_ + "/model.safetensors", path_ + "/a.safetensors");
  index(R"({"x":"gone1.safetensors","y":"gone2.safetensors","lm_head.weight":"a.safetensors"})");
  expect_error(Exit::bad_input, {"shards missing (2): gone1.safetensors, gone2.safetensors"}, [&] { ModelFolder f(path_); });
  index(R"({"x":"a.safetensors","y":"a.safetensors"})");
  expect_error(Exit::bad_input, {"tensors that are not in the shard the index names (2): x (a.safetensors), y (a.safetensors)"},
               [&] { ModelFolder f(path_); });
  fs::copy_file(path_ + "/a.safetensors", path_ + "/b.safetensors");
  index(R"({"lm_head.weight":"a.safetensors","model.norm.weight":"b.safetensors"})");
  expect_error(Exit::bad_input, {"tensors that two shards hold (73): model.embed_tokens.weight (a.safetensors and b.safetensors)"},
               [&] { ModelFolder f(path_); });
  index(R"({"a":1})");
  expect_error(Exit::bad_input, {"weight_map 'a' is not a file name"}, [&] { ModelFolder f(path_); });
  index("[]");
  expect_error(Exit::bad_input, {"no weight_map"}, [&] { ModelFolder f(path_); });
  put_file(path_ + "/model.safetensors.index.json", R"({"weight_map":{"a":"a.safetensors","a":"b.safetensors"}})");
  expect_error(Exit::bad_input, {"duplicate key 'a'"}, [&] { ModelFolder f(path_); });
  core::sys::remove_tree(path_ + "/model.safetensors.index.json");
  expect_error(Exit::io, {"no model.safetensors"}, [&] { ModelFolder f(path_); });
  expect_error(Exit::io, {"not a folder"}, [&] { ModelFolder f(folder_ / "absent"); });
}

TEST_F(HfFolder, AShardCutWhileLoadingIsAnError) {
  save();
  const ModelFolder f(path_);
  ASSERT_EQ(::truncate((path_ + "/model.safetensors").c_str(), 9000), 0);
  SmallModel m;
  expect_error(Exit::io, {"file ends at byte"}, [&] { f.load(m.list, m.team, m.weights); });
}

TEST(ConvertWeights, EveryBinary16IsItsValue) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const numerics::f16 h{static_cast<std::uint16_t>(bits)};
    float out = 0;
    convert_weights(DType::f16, &h, DType::f32, &out, 1);
    const int exponent = static_cast<int>(bits >> 10 & 31), mantissa = static_cast<int>(bits & 1023);
    if (exponent == 31 && mantissa != 0) {
      EXPECT_TRUE(std::isnan(out));
      continue;
    }
    double value = exponent == 31 ? HUGE_VAL : exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (bits & 0x8000) value = -value;
    ASSERT_EQ(out, static_cast<float>(value)) << bits;
    ASSERT_EQ(std::signbit(out), (bits & 0x8000) != 0) << bits;
  }
}

TEST(CountNonFinite, FindsEveryKindWhereverItLies) {
  const auto count = [](DType dtype, const auto& values) { return count_non_finite(dtype, values.data(), std::ssize(values)); };
  std::vector<float> f(300, 3e38f);
  std::vector<double> d(300, 1e308);
  std::vector<std::uint16_t> b(300, 0x7f7f), h(300, 0x7bff);
  std::vector<std::uint8_t> e(300, 0xfe);
  EXPECT_EQ(count(DType::f32, f) + count(DType::f64, d) + count(DType::bf16, b) + count(DType::f16, h) + count(DType::e4m3, e), 0);
  for (const std::size_t at : {0, 127, 128, 299}) {
    f[at] = at % 2 ? INFINITY : NAN;
    d[at] = -INFINITY;
    b[at] = 0xff80;
    h[at] = 0x7e00;
    e[at] = at % 2 ? 0x7f : 0xff;
  }
  EXPECT_EQ(count(DType::f32, f), 4);
  EXPECT_EQ(count(DType::f64, d), 4);
  EXPECT_EQ(count(DType::bf16, b), 4);
  EXPECT_EQ(count(DType::f16, h), 4);
  EXPECT_EQ(count(DType::e4m3, e), 4);
  EXPECT_EQ(count_non_finite(DType::e4m3, e.data(), 0), 0);
  std::fill(e.begin(), e.end(), 0x7f);
  EXPECT_EQ(count(DType::e4m3, e), 300) << "more than a byte can count";
}

}  // namespace
}  // namespace finback::formats
