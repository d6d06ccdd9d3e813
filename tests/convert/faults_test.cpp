// What a conversion refuses, and what it leaves behind when it is stopped.
#include "convert/conversion.h"

#include "tests/convert/fp8_folder.h"

#include <signal.h>
#include <sys/wait.h>

#include <cmath>
#include <cstdlib>

namespace finback::convert {
namespace {

using core::Exit;
using finback::testing::expect_error;
using finback::testing::Fp8Folder;
using finback::testing::put_file;
using finback::testing::read_folder;
using finback::testing::TempFolder;

class ConvertFaults : public ::testing::Test {
 protected:
  ~ConvertFaults() override { core::set_fault(""); }
  std::string run(const std::string& in, Target target, bool resume = false) {
    core::Team team(2);
    return Conversion({.in = in, .out = out_, .target = target, .shard_bytes = 100'000, .resume = resume}).run(team);
  }
  void refuse(std::initializer_list<std::string_view> parts, Target target = Target::bf16, Exit code = Exit::bad_input) {
    fp8_.put(4);
    expect_error(code, parts, [&] { run(fp8_.path, target); });
    EXPECT_FALSE(core::exists(out_)) << *parts.begin();
    EXPECT_FALSE(core::exists(out_ + ".tmp")) << *parts.begin();
  }
  void set_scale(std::size_t i, float value) { std::memcpy(fp8_.tensors.at(scale_).bytes.data() + 4 * i, &value, 4); }
  void configure(std::string_view key, const boost::json::value& value) {
    auto config = boost::json::parse(finback::testing::kShrunkenConfig).as_object();
    config[key] = value;
    put_file(fp8_.path + "/config.json", boost::json::serialize(config));
  }

  TempFolder folder_;
  Fp8Folder fp8_{folder_ / "fp8"};
  std::string out_ = folder_ / "out";
  const std::string weight_ = "model.layers.1.mlp.experts.2.up_proj.weight", scale_ = weight_ + "_scale_inv";  // [64, 200], [1, 2]
};

TEST_F(ConvertFaults, ScalesThatCannotBe) {
  for (const float bad : {0.0f, -1e-4f, INFINITY, NAN, 0x1p120f}) {
    const std::string was = fp8_.tensors.at(scale_).bytes;
    set_scale(1, bad);
    for (const Target target : {Target::bf16, Target::fp32, Target::fp8}) refuse({scale_ + "' [0, 1] is ", "above 0"}, target);
    fp8_.tensors.at(scale_).bytes = was;
  }
}

TEST_F(ConvertFaults, ScalesMissingOrOfAnotherShapeOrType) {
  const auto tensors = fp8_.tensors;
  fp8_.tensors.erase(scale_);
  fp8_.tensors.erase("model.layers.0.self_attn.o_proj.weight_scale_inv");
  refuse({"scales of FP8 weights missing (2)", scale_, "model.layers.0.self_attn.o_proj.weight_scale_inv"});
  fp8_.tensors = tensors;
  fp8_.tensors.at(scale_) = {"F32", {2, 1}, std::string(8, '\1')};
  refuse({"another shape", scale_ + " [2, 1] instead of [1, 2]"});
  fp8_.tensors.at(scale_) = {"BF16", {1, 2}, std::string(4, '\1')};
  refuse({"dtype other than F32", scale_ + " (BF16)"});
}

TEST_F(ConvertFaults, ValuesThatAreNoNumbers) {
  const auto tensors = fp8_.tensors;
  fp8_.tensors.at(weight_).bytes[777] = '\x7f';
  refuse({weight_, "NaN"});
  refuse({weight_, "NaN"}, Target::fp8);
  fp8_.tensors = tensors;
  fp8_.tensors.at("lm_head.weight").bytes.replace(1000, 2, "\x80\x7f");  // infinity
  refuse({"lm_head.weight", "NaN or infinite", "model-0"});
  fp8_.tensors = tensors;
  fp8_.tensors.at("model.layers.1.mlp.gate.e_score_correction_bias").bytes.replace(0, 4, std::string("\0\0\xc0\x7f", 4));
  refuse({"model.layers.1.mlp.gate.e_score_correction_bias", "NaN"});
}

TEST_F(ConvertFaults, ValuesThatAreNoNumbersOnTheWayIntoFp8) {
  run(fp8_.path, Target::bf16);
  core::sys::rename(out_, folder_ / "bf16");
  auto tensors = finback::testing::read_tensors(folder_ / "bf16");
  for (const auto& [file, _] : read_folder(folder_ / "bf16"))
    if (file.starts_with("model")) core::sys::remove_tree(folder_ / ("bf16/" + file));
  for (const char* bad : {"\xc0\x7f", "\x80\xff"}) {
    auto& bytes = tensors.at(weight_).bytes;
    const std::string was = bytes;
    bytes.replace(5000, 2, bad);
    finback::testing::put_tensors(folder_ / "bf16", tensors, 1);
    expect_error(Exit::bad_input, {weight_, "NaN or infinite"}, [&] { run(folder_ / "bf16", Target::fp8); });
    EXPECT_FALSE(core::exists(out_ + ".tmp"));
    bytes = was;
  }
}

TEST_F(ConvertFaults, TypesThatAreDeclaredAndNotHeld) {
  auto config = boost::json::parse(finback::testing::kShrunkenConfig).as_object();
  config.erase("quantization_config");
  put_file(fp8_.path + "/config.json", boost::json::serialize(config));
  refuse({"q_a_proj.weight' is F8_E4M3", "no quantization_config"});

  configure("torch_dtype", "float32");
  refuse({"torch_dtype is float32", "no weight holds it", "embed_tokens.weight' is BF16"});

  put_file(fp8_.path + "/config.json", finback::testing::kShrunkenConfig);
  const auto tensors = fp8_.tensors;
  fp8_.tensors.at(weight_) = {"BF16", {64, 200}, std::string(2 * 64 * 200, '\0')};
  fp8_.tensors.erase(scale_);
  refuse({weight_ + "' is BF16", "declares FP8"});
  fp8_.tensors = tensors;
  fp8_.tensors["model.layers.1.mlp.gate.weight_scale_inv"] = fp8_.tensors.at(scale_);
  refuse({"model.layers.1.mlp.gate.weight' has a scale"});
  fp8_.tensors = tensors;
  fp8_.tensors.erase(weight_);
  fp8_.tensors.erase(scale_);
  refuse({"tensors missing (1)", weight_});
}

TEST_F(ConvertFaults, OtherQuantisations) {
  configure("quantization_config", {{"quant_method", "gptq"}, {"bits", 4}});
  refuse({"quant_method is \"gptq\""}, Target::bf16, Exit::usage);
  configure("quantization_config", {{"quant_method", "fp8"}, {"weight_block_size", boost::json::array{64, 64}}});
  refuse({"weight_block_size is [64,64]"}, Target::bf16, Exit::usage);
}

TEST_F(ConvertFaults, Places) {
  const auto refused = [&](const std::string& out, std::string_view what) {
    expect_error(Exit::usage, {what}, [&] { Conversion({.in = fp8_.path, .out = out}); });
  };
  refused(fp8_.path, "is the input");
  refused(fp8_.path + "/", "is the input");
  refused(fp8_.path + "/../fp8/bf16", "lies in the input");
  refused(folder_.path(), "the input lies in the output");
  core::make_directories(out_);
  run(fp8_.path, Target::bf16);  // an empty folder is no obstacle
  expect_error(Exit::usage, {"there already", out_}, [&] { run(fp8_.path, Target::bf16); });
  expect_error(Exit::usage, {"there already", out_}, [&] { run(fp8_.path, Target::fp32, /*resume=*/true); });
  EXPECT_NE(run(fp8_.path, Target::bf16, /*resume=*/true).find("whole"), std::string::npos);
  expect_error(Exit::io, {"not a folder"}, [&] { Conversion({.in = folder_ / "absent", .out = out_ + "2"}); });
}

TEST_F(ConvertFaults, ADamagedRecordIsRefused) {
  run(fp8_.path, Target::bf16);
  const std::string record = out_ + "/conversion/fp8_source.safetensors";
  std::string bytes = core::read_file(record, 1 << 30);
  std::memcpy(bytes.data() + bytes.size() - 4, "\0\0\0\0", 4);
  put_file(record, bytes);
  core::Team team(2);
  Conversion back({.in = out_, .out = folder_ / "back", .target = Target::fp8});
  expect_error(Exit::bad_input, {"_scale_inv", "is 0"}, [&] { back.run(team); });
  put_file(record, bytes.substr(0, bytes.size() / 2));
  expect_error(Exit::bad_input, {record}, [&] { Conversion({.in = out_, .out = folder_ / "back", .target = Target::fp8}); });
}

// Every call of a kind fails or kills in turn; a stride keeps the test short, FINBACK_FULL=1 tries all.
class StoppedConversion : public ConvertFaults, public ::testing::WithParamInterface<Target> {
 protected:
  StoppedConversion() {
    if (GetParam() == Target::fp8) {
      in_ = folder_ / "bf16";
      core::Team team(2);
      Conversion({.in = fp8_.path, .out = in_, .target = Target::bf16}).run(team);
      core::sys::remove_tree(in_ + "/conversion");
    }
    run(in_, GetParam());
    whole_ = read_folder(out_);
    core::sys::remove_tree(out_);
    core::set_fault("any:1000000000:eio");
    run(in_, GetParam());
    calls_ = static_cast<int>(core::counted_calls());
    core::set_fault("");
    core::sys::remove_tree(out_);
  }
  int step(int about) const { return std::getenv("FINBACK_FULL") ? 1 : std::max(1, calls_ / about); }
  // What lies there after a stop: nothing, or all of it; then --resume makes all of it.
  void expect_whole_after_resume(int n) {
    EXPECT_TRUE(!core::exists(out_) || read_folder(out_) == whole_) << "call " << n;
    EXPECT_NO_THROW(run(in_, GetParam(), /*resume=*/true)) << "call " << n;
    EXPECT_TRUE(read_folder(out_) == whole_) << "call " << n;
    EXPECT_FALSE(core::exists(out_ + ".tmp"));
    core::sys::remove_tree(out_);
  }

  std::string in_ = fp8_.path;
  std::map<std::string, std::string> whole_;
  int calls_ = 0;
};

TEST_P(StoppedConversion, GoesOnAfterAKillAtAnyCallToTheSameBytes) {
  for (int n = 1; n <= calls_; n += step(40)) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      try {
        core::set_fault(fmt::format("any:{}:kill", n));
        run(in_, GetParam());
      } catch (...) {
        ::_exit(9);
      }
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "call " << n << " of " << calls_;
    expect_whole_after_resume(n);
  }
}

TEST_P(StoppedConversion, AFullDiskIsAnErrorAndGoesOn) {
  for (int n = 1; n <= calls_; n += step(20))
    for (const char* action : {"enospc", "eio"}) {
      core::set_fault(fmt::format("any:{}:{}", n, action));
      expect_error(Exit::io, {"cannot"}, [&] { run(in_, GetParam()); });
      core::set_fault("");
      expect_whole_after_resume(n);
    }
}

INSTANTIATE_TEST_SUITE_P(Types, StoppedConversion, ::testing::Values(Target::bf16, Target::fp8),
                         [](const auto& test) { return std::string(name_of(test.param)); });

TEST_F(ConvertFaults, AStoppedConversionIsNotMixedWithAnother) {
  core::set_fault("rename:4:enospc");
  expect_error(Exit::io, {"rename"}, [&] { run(fp8_.path, Target::bf16); });
  core::set_fault("");
  ASSERT_TRUE(core::exists(out_ + ".tmp"));
  EXPECT_FALSE(core::exists(out_ + ".tmp/config.json")) << "no loader takes it for a model";
  expect_error(Exit::usage, {"stopped half-way", "--resume"}, [&] { run(fp8_.path, Target::bf16); });
  expect_error(Exit::usage, {"another one"}, [&] { run(fp8_.path, Target::fp32, /*resume=*/true); });
  fp8_.put(4);  // the input was written anew
  expect_error(Exit::usage, {"another one"}, [&] { run(fp8_.path, Target::bf16, /*resume=*/true); });
}

}  // namespace
}  // namespace finback::convert
