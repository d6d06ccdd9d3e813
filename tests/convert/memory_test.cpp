// How much memory a conversion takes, and an initialisation: a matter of threads, not of the model.
#include "convert/config_text.h"
#include "formats/safetensors.h"
#include "tests/convert/fp8_folder.h"
#include "tests/convert/published.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

namespace finback::convert {
namespace {

using finback::testing::put_file;
using finback::testing::TempFolder;

// The high-water mark of a process's memory, in bytes; 0 when it has ended.
std::int64_t high_water(pid_t pid) {
  std::ifstream status(fmt::format("/proc/{}/status", pid));
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  return 0;
}

// Runs the program; returns its peak memory, read until it ends: what the system says afterwards counts this test's memory too, from
// which the program was forked. Fails the test if it does not end well.
std::int64_t peak_of(const std::vector<std::string>& arguments) {
  int started[2];
  EXPECT_EQ(::pipe2(started, O_CLOEXEC), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    std::vector<char*> argv = {const_cast<char*>("finback")};
    for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    ::dup2(::open("/dev/null", O_WRONLY), 1);
    ::dup2(1, 2);
    ::execv(FINBACK_BINARY, argv.data());
    ::_exit(127);
  }
  ::close(started[1]);
  char none;
  EXPECT_EQ(::read(started[0], &none, 1), 0);  // closed by exec
  ::close(started[0]);
  std::int64_t peak = 0;
  int status = 0;
  while (::waitpid(pid, &status, WNOHANG) == 0) {
    peak = std::max(peak, high_water(pid));
    ::usleep(1000);
  }
  EXPECT_EQ(status, 0);
  EXPECT_GT(peak, 1 << 20);
  return peak;
}

// A model of 206 MB in BF16, which becomes 412 MB in FP32.
class ConvertMemory : public ::testing::Test {
 protected:
  static constexpr std::int64_t kLimit = 64 << 20;  // two threads of 20 MB, and the program
  ConvertMemory() {
    put_file(config_, R"({"model_type": "deepseek_v3", "vocab_size": 16384, "hidden_size": 1024, "intermediate_size": 22528,
      "num_hidden_layers": 1, "num_attention_heads": 2, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16,
      "v_head_dim": 32, "first_k_dense_replace": 1})");
  }
  // The weights as holes, which read as zeros and take no room.
  void put_holes(const std::string& folder) const {
    core::make_directories(folder);
    const model::ParameterList list = model::list_parameters(model::read_config(config_));
    std::vector<formats::TensorInfo> tensors;
    for (const auto& p : list.parameters) tensors.push_back({.name = p.name, .dtype = "BF16", .shape = p.shape});
    const auto head = formats::make_head(std::move(tensors));
    put_file(folder + "/model.safetensors", head.text);
    std::filesystem::resize_file(folder + "/model.safetensors", head.file_bytes);
    put_file(folder + "/config.json", core::read_file(config_, 1 << 20));
    ASSERT_GT(head.file_bytes, 200'000'000u);
  }
  TempFolder folder_;
  std::string config_ = folder_ / "config.json";
};

TEST_F(ConvertMemory, StaysFarBelowTheModel) {
  put_holes(folder_ / "bf16");
  EXPECT_LT(peak_of({"convert", "--in", folder_ / "bf16", "--out", folder_ / "fp8", "--dtype", "fp8", "--threads", "2"}), kLimit);
  EXPECT_LT(peak_of({"convert", "--in", folder_ / "fp8", "--out", folder_ / "fp32", "--dtype", "fp32", "--threads", "2"}), kLimit);
  EXPECT_GT(core::file_size(folder_ / "fp32/model.safetensors"), std::uint64_t{6} * kLimit);
}

// The headers, the index and the plan of the published folder, 688.6 GB of holes.
TEST_F(ConvertMemory, PlanningForThePublishedFolderTakesLittle) {
  const model::ModelConfig config = finback::testing::published_config();
  const Plan plan = make_plan(weights_of(model::list_parameters(config), Target::fp8), kShardBytes);
  core::make_directories(folder_ / "v3");
  put_file(folder_ / "v3/config.json", core::pretty_json(config_for(model::to_json(config), Target::fp8)));
  put_file(folder_ / "v3/model.safetensors.index.json", plan.index);
  for (const Shard& s : plan.shards) {
    put_file(folder_ / ("v3/" + s.name), s.head.text);
    std::filesystem::resize_file(folder_ / ("v3/" + s.name), s.head.file_bytes);
  }
  EXPECT_LT(peak_of({"convert", "--in", folder_ / "v3", "--out", folder_ / "bf16", "--dtype", "bf16", "--dry-run"}), 300 << 20);
}

TEST_F(ConvertMemory, SoDoesAnInitialisation) {
  EXPECT_LT(peak_of({"init", "--config", config_, "--out", folder_ / "fp8", "--dtype", "fp8"}), kLimit);
  EXPECT_GT(core::file_size(folder_ / "fp8/model.safetensors"), std::uint64_t{3} * kLimit / 2);
}

}  // namespace
}  // namespace finback::convert
