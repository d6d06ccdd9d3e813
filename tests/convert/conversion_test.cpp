// Folders from one type into another and back, element by element against the definition.
#include "convert/conversion.h"

#include "numerics/e4m3.h"
#include "tests/convert/fp8_folder.h"

#include <cmath>

namespace finback::convert {
namespace {

using core::Exit;
using finback::testing::expect_error;
using finback::testing::Fp8Folder;
using finback::testing::put_file;
using finback::testing::put_tensors;
using finback::testing::read_folder;
using finback::testing::read_tensors;
using finback::testing::StoredTensor;
using finback::testing::TempFolder;
using finback::testing::Tensors;
using numerics::bf16;
using numerics::e4m3;

template <class T>
const T* as(const StoredTensor& t) {
  return reinterpret_cast<const T*>(t.bytes.data());
}

// Element i of a tensor, times its scale if it has one.
float element(const Tensors& tensors, const std::string& name, std::int64_t i) {
  const StoredTensor& t = tensors.at(name);
  if (t.dtype == "F32") return as<float>(t)[i];
  if (t.dtype == "BF16") return static_cast<float>(as<bf16>(t)[i]);
  const StoredTensor& scales = tensors.at(formats::scale_name(name));
  const std::int64_t row = i / t.shape[1], col = i % t.shape[1];
  return static_cast<float>(as<e4m3>(t)[i]) * as<float>(scales)[row / 128 * scales.shape[1] + col / 128];
}

std::int64_t elements(const StoredTensor& t) {
  std::int64_t n = 1;
  for (const auto d : t.shape) n *= d;
  return n;
}

class Convert : public ::testing::Test {
 protected:
  std::string convert(const std::string& in, const std::string& out, Target target, std::uint64_t shard_bytes = 100'000, int threads = 2) {
    core::Team team(threads);
    return Conversion({.in = in, .out = out, .target = target, .shard_bytes = shard_bytes}).run(team);
  }
  // Converts the FP8 folder into `target` and back, and expects the same bytes in every file.
  void expect_back(const std::string& from) {
    convert(from, folder_ / "back", Target::fp8);
    auto want = read_folder(fp8_.path), have = read_folder(folder_ / "back");
    want.erase(".gitattributes");
    const std::string report = have["conversion/errors.json"];
    have.erase("conversion/errors.json");
    EXPECT_EQ(want.size(), have.size());
    for (const auto& [name, bytes] : want) EXPECT_TRUE(bytes == have[name]) << name;
    const auto json = core::parse_json(report, "errors.json");
    for (const auto& [name, e] : json.at("tensors").as_object())
      EXPECT_EQ(e.at("blocks"), e.at("original_blocks")) << std::string_view(name);
    core::sys::remove_tree(folder_ / "back");
  }

  TempFolder folder_;
  Fp8Folder fp8_{folder_ / "fp8"};
  std::string out_ = folder_ / "out";
};

TEST_F(Convert, Fp8IntoBf16AndFp32IsCodeTimesScaleRoundedOnce) {
  for (const Target target : {Target::bf16, Target::fp32}) {
    convert(fp8_.path, out_, target);
    const Tensors out = read_tensors(out_);
    std::size_t scales = 0;
    for (const auto& [name, t] : fp8_.tensors) {
      if (name.ends_with(formats::kScaleSuffix)) {
        ++scales;
        EXPECT_FALSE(out.contains(name));
        continue;
      }
      const StoredTensor& o = out.at(name);
      const bool wide = target == Target::fp32 || name.ends_with("e_score_correction_bias");
      ASSERT_EQ(o.dtype, wide ? "F32" : "BF16") << name;
      ASSERT_EQ(o.shape, t.shape);
      for (std::int64_t i = 0; i < elements(t); ++i) {
        const float x = element(fp8_.tensors, name, i), y = element(out, name, i), want = wide ? x : static_cast<float>(bf16(x));
        ASSERT_EQ(std::bit_cast<std::uint32_t>(y), std::bit_cast<std::uint32_t>(want)) << name << " " << i;
      }
    }
    EXPECT_EQ(out.size() + scales, fp8_.tensors.size());
    core::sys::remove_tree(out_);
  }
}

TEST_F(Convert, ConfigurationChangesItsTypesAloneAndTheRestIsCopied) {
  convert(fp8_.path, out_, Target::bf16);
  const auto was = core::read_json_file(fp8_.path + "/config.json").as_object(),
             is = core::read_json_file(out_ + "/config.json").as_object();
  EXPECT_FALSE(is.contains("quantization_config"));
  EXPECT_EQ(is.size() + 1, was.size());
  for (const auto& [key, value] : is) EXPECT_EQ(value, was.at(key)) << std::string_view(key);
  const auto files = read_folder(out_);
  EXPECT_EQ(files.at("tokenizer.json"), "{\"model\": {}}");
  EXPECT_EQ(files.at("figures/plot.svg"), "<svg/>");
  EXPECT_EQ(files.at("README.md"), "# A model");
  EXPECT_FALSE(files.contains(".gitattributes"));
  EXPECT_FALSE(files.contains("plan.json"));

  convert(out_, folder_ / "wide", Target::fp32);
  EXPECT_EQ(core::read_json_file(folder_ / "wide/config.json").at("torch_dtype"), "float32");
}

TEST_F(Convert, TheWayBackIsTheSameBytesInEveryFile) {
  convert(fp8_.path, folder_ / "bf16", Target::bf16);
  expect_back(folder_ / "bf16");
  convert(fp8_.path, folder_ / "fp32", Target::fp32);
  expect_back(folder_ / "fp32");
  convert(folder_ / "bf16", folder_ / "fp32 of bf16", Target::fp32, 1'000'000'000);
  expect_back(folder_ / "fp32 of bf16");
  convert(folder_ / "fp32", folder_ / "bf16 of fp32", Target::bf16);
  expect_back(folder_ / "bf16 of fp32");
}

TEST_F(Convert, AnotherConfigurationIsKeptOnTheWayBack) {
  convert(fp8_.path, folder_ / "bf16", Target::bf16);
  auto config = core::read_json_file(folder_ / "bf16/config.json").as_object();
  config["rope_theta"] = 50000;
  put_file(folder_ / "bf16/config.json", core::pretty_json(config));
  convert(folder_ / "bf16", out_, Target::fp8);
  const auto back = core::read_json_file(out_ + "/config.json");
  EXPECT_EQ(back.at("rope_theta"), 50000);
  EXPECT_EQ(back.at("quantization_config"), boost::json::parse(finback::testing::kShrunkenConfig).at("quantization_config"));
}

// A block that was trained on has lost its codes; the blocks beside it have not.
TEST_F(Convert, AChangedBlockIsQuantisedAnewAndTheOthersKeepTheirCodes) {
  convert(fp8_.path, folder_ / "bf16", Target::bf16);
  Tensors tensors = read_tensors(folder_ / "bf16");
  const std::string name = "model.layers.0.mlp.gate_proj.weight";  // [150, 200]: four blocks
  StoredTensor& t = tensors.at(name);
  for (std::int64_t r = 128; r < 150; ++r)
    for (std::int64_t c = 0; c < 128; ++c) {
      const bf16 x(1e-3 * static_cast<double>(r - c));
      std::memcpy(t.bytes.data() + 2 * (r * 200 + c), &x, 2);
    }
  for (const auto& [file, _] : read_folder(folder_ / "bf16"))
    if (file.starts_with("model")) core::sys::remove_tree(folder_ / ("bf16/" + file));
  put_tensors(folder_ / "bf16", tensors, 1);
  convert(folder_ / "bf16", out_, Target::fp8);

  const Tensors back = read_tensors(out_);
  const auto scale = [&](const Tensors& of, std::int64_t i) { return as<float>(of.at(formats::scale_name(name)))[i]; };
  for (const std::int64_t i : {0, 1, 3}) EXPECT_EQ(scale(back, i), scale(fp8_.tensors, i));
  EXPECT_EQ(scale(back, 2), static_cast<float>(bf16(1e-3 * 149)) / 448);
  for (std::int64_t r = 0; r < 150; ++r)
    for (std::int64_t c = 0; c < 200; ++c) {
      const auto i = static_cast<std::size_t>(r * 200 + c);
      if (r < 128 || c >= 128) ASSERT_EQ(back.at(name).bytes[i], fp8_.tensors.at(name).bytes[i]);
      else ASSERT_NEAR(element(back, name, r * 200 + c), 1e-3 * static_cast<double>(r - c), 0.149 / 16);
    }
  for (const auto& [other, was] : fp8_.tensors) EXPECT_TRUE(other.starts_with(name) || was.bytes == back.at(other).bytes) << other;
  const auto report = core::read_json_file(out_ + "/conversion/errors.json");
  EXPECT_EQ(report.at("tensors").at(name).at("original_blocks"), 3);
}

class IntoFp8 : public Convert {
 protected:
  // Plain weights in `dtype`, as finback init would leave them: no record.
  std::string plain(const std::string& dtype) {
    convert(fp8_.path, folder_ / dtype, dtype == "F32" ? Target::fp32 : Target::bf16);
    core::sys::remove_tree(folder_ / (dtype + "/conversion"));
    return folder_ / dtype;
  }
};

TEST_F(IntoFp8, TheLayoutIsThePublishedOne) {
  convert(plain("BF16"), out_, Target::fp8);
  const Tensors out = read_tensors(out_);
  EXPECT_EQ(out.size(), fp8_.tensors.size());
  for (const auto& [name, t] : fp8_.tensors) {
    ASSERT_TRUE(out.contains(name)) << name;
    EXPECT_EQ(out.at(name).dtype, t.dtype) << name;
    EXPECT_EQ(out.at(name).shape, t.shape) << name;
    EXPECT_TRUE(t.dtype == "F8_E4M3" || name.ends_with(formats::kScaleSuffix) || out.at(name).bytes == t.bytes) << name;
  }
  EXPECT_EQ(core::read_json_file(out_ + "/config.json").at("quantization_config"),
            boost::json::parse(finback::testing::kShrunkenConfig).at("quantization_config"));
  const auto index = core::read_json_file(out_ + "/model.safetensors.index.json");
  std::uint64_t total = 0;
  for (const auto& [name, t] : out) total += t.bytes.size();
  EXPECT_EQ(index.at("metadata").at("total_size").to_number<std::uint64_t>(), total);
  EXPECT_EQ(index.at("weight_map").as_object().size(), out.size());
}

TEST_F(IntoFp8, ScalesCodesAndTheReportedErrorsAreTheirDefinition) {
  for (const char* dtype : {"BF16", "F32"}) {
    const std::string in = plain(dtype);
    convert(in, out_, Target::fp8);
    const Tensors from = read_tensors(in), to = read_tensors(out_);
    const auto report = core::read_json_file(out_ + "/conversion/errors.json");
    double all_squares = 0, all_errors = 0;
    for (const auto& [name, t] : to) {
      if (t.dtype != "F8_E4M3") continue;
      const StoredTensor& scales = to.at(formats::scale_name(name));
      std::vector<float> amax(static_cast<std::size_t>(elements(scales)));
      const auto block = [&](std::int64_t i) {
        return static_cast<std::size_t>(i / t.shape[1] / 128 * scales.shape[1] + i % t.shape[1] / 128);
      };
      for (std::int64_t i = 0; i < elements(t); ++i) amax[block(i)] = std::max(amax[block(i)], std::abs(element(from, name, i)));
      for (std::size_t b = 0; b < amax.size(); ++b) ASSERT_EQ(as<float>(scales)[b], amax[b] / 448) << name;
      double squares = 0, errors = 0, largest = 0, largest_error = 0;
      for (std::int64_t i = 0; i < elements(t); ++i) {
        const float x = element(from, name, i);
        ASSERT_EQ(as<e4m3>(t)[i].bits, e4m3(x * (448 / amax[block(i)])).bits) << name << " " << i;
        const double error = std::abs(static_cast<double>(element(to, name, i) - x));
        squares += static_cast<double>(x) * x;
        errors += error * error;
        largest = std::max(largest, std::abs(static_cast<double>(x)));
        largest_error = std::max(largest_error, error);
      }
      const auto& e = report.at("tensors").at(name);
      EXPECT_NEAR(e.at("rms").as_double(), std::sqrt(errors / squares), 1e-5 * std::sqrt(errors / squares)) << name;  // sums in f32
      EXPECT_NEAR(e.at("max").as_double(), largest_error / largest, 1e-12);
      all_squares += squares;
      all_errors += errors;
    }
    EXPECT_NEAR(report.at("rms").at("all").as_double(), std::sqrt(all_errors / all_squares), 1e-6);
    core::sys::remove_tree(out_);
  }
}

TEST_F(IntoFp8, ThreadsChangeNoByte) {
  const std::string in = plain("F32");
  convert(in, folder_ / "one", Target::fp8, 100'000, 1);
  convert(in, folder_ / "five", Target::fp8, 100'000, 5);
  EXPECT_TRUE(read_folder(folder_ / "one") == read_folder(folder_ / "five"));
}

TEST_F(IntoFp8, ACopyOfFp8IsLaidOutAnewWithItsOwnScales) {
  convert(fp8_.path, out_, Target::fp8, 1'000'000'000);
  const Tensors out = read_tensors(out_);
  EXPECT_EQ(out.size(), fp8_.tensors.size());
  for (const auto& [name, t] : fp8_.tensors) EXPECT_TRUE(t.bytes == out.at(name).bytes) << name;
  EXPECT_FALSE(core::exists(out_ + "/conversion"));
}

// What config.json does not ask for is not thrown away.
TEST_F(Convert, UnknownTensorsComeAlong) {
  fp8_.tensors["old.inv_freq"] = {"F32", {3}, std::string(12, '\1')};
  fp8_.tensors["old.table"] = {"I8", {2, 2}, "abcd"};
  fp8_.tensors["old.proj.weight"] = {"F8_E4M3", {1, 2}, "\x38\xb8"};  // 1, -1
  const float scale = 0.5;
  fp8_.tensors["old.proj.weight_scale_inv"] = {"F32", {1, 1}, std::string(reinterpret_cast<const char*>(&scale), 4)};
  fp8_.put(4);
  convert(fp8_.path, out_, Target::bf16);
  const Tensors out = read_tensors(out_);
  EXPECT_EQ(out.at("old.inv_freq").bytes, std::string(12, '\1'));
  EXPECT_EQ(out.at("old.table").dtype, "I8");
  EXPECT_EQ(out.at("old.table").bytes, "abcd");
  EXPECT_EQ(element(out, "old.proj.weight", 0), 0.5f);
  EXPECT_EQ(element(out, "old.proj.weight", 1), -0.5f);
  EXPECT_FALSE(out.contains("old.proj.weight_scale_inv"));
  expect_back(out_);
}

TEST_F(Convert, ADryRunSaysWhatWouldBeWrittenAndWritesNothing) {
  const std::string text = Conversion({.in = fp8_.path, .out = out_, .target = Target::bf16}).describe();
  std::size_t bf16_tensors = 0;
  for (const auto& [name, t] : fp8_.tensors) bf16_tensors += t.dtype == "BF16" || t.dtype == "F8_E4M3";
  EXPECT_NE(text.find(fmt::format("{} tensors", bf16_tensors)), std::string::npos) << text;
  EXPECT_NE(text.find("conversion/fp8_source.safetensors"), std::string::npos) << text;
  EXPECT_NE(text.find("README.md, figures/plot.svg, tokenizer.json"), std::string::npos) << text;
  EXPECT_FALSE(core::exists(out_));
  EXPECT_FALSE(core::exists(out_ + ".tmp"));
}

}  // namespace
}  // namespace finback::convert
