#include "train/checkpoint.h"

#include "core/error.h"
#include "core/file.h"
#include "core/rng.h"
#include "kernels/kernels.h"
#include "tests/train/tiny_model.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <limits>

namespace finback::train {
namespace {

namespace fs = std::filesystem;

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest()
      : directory_(fs::temp_directory_path() / fmt::format("finback checkpoint é {}", ::getpid())),
        scratch_("scratch", kernels::scratch_bytes(1)),
        state_(list_, precision_, core::DType::bf16),
        snapshot_(list_, precision_, core::DType::bf16) {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    fill(state_, 1);
  }
  ~CheckpointTest() override {
    core::set_fault("");
    fs::remove_all(directory_);
  }

  kernels::Context context() { return {kernels::reference(), team_, scratch_}; }
  CheckpointContent content() { return {config_, list_, core::DType::bf16, "", "run", 7, {"build", "isa", "layout", {{"a.bin", 100}}}}; }

  // Another state a seed, in every byte that a checkpoint holds.
  static void fill(TrainState& state, std::uint64_t seed) {
    std::uint64_t i = 0;
    const core::Rng rng(seed, core::Stream::test);
    for (const auto* buffers : {&state.master, &state.m, &state.v})
      for (const core::Mat& x : buffers->slabs) {
        for (std::int64_t k = 0; x && k < x.size(); ++k) {
          if (x.dtype == core::DType::f32) x.row<float>(0)[k] = static_cast<float>(rng.normal(i++));
          else x.row<std::uint16_t>(0)[k] = static_cast<std::uint16_t>(0x3f00 + rng.below(i++, 256));
        }
      }
    state.counters = {};
    state.counters.step = static_cast<std::int64_t>(seed) * 10;
    state.counters.tokens = static_cast<std::int64_t>(seed) * 1000;
    state.counters.guard.loss = {5, 0.1 * static_cast<double>(seed), 1.0 / 3};
  }
  static bool equal(const TrainState& a, const TrainState& b) {
    for (const auto& [x, y] : {std::pair{&a.master, &b.master}, {&a.m, &b.m}, {&a.v, &b.v}})
      for (std::size_t s = 0; s < x->slabs.size(); ++s)
        if (x->slabs[s] && std::memcmp(x->slabs[s].data, y->slabs[s].data, static_cast<std::size_t>(x->slabs[s].bytes())) != 0)
          return false;
    return a.counters.step == b.counters.step && a.counters.tokens == b.counters.tokens &&
           a.counters.guard.loss.mean == b.counters.guard.loss.mean && a.counters.guard.loss.variance == b.counters.guard.loss.variance;
  }

  std::string save(std::uint64_t seed) {
    fill(state_, seed);
    snapshot_.copy(state_, context());
    return write_checkpoint(directory_, content(), snapshot_);
  }
  TrainState load(const std::string& path) {
    TrainState loaded(list_, precision_, core::DType::bf16);
    read_checkpoint(path, content(), {}, loaded);
    return loaded;
  }

  const std::string directory_;
  const model::ModelConfig config_ = tiny_model();
  const model::ParameterList list_ = model::list_parameters(config_);
  const model::Precision precision_{core::DType::bf16, core::DType::f32};
  core::Team team_{1};
  core::Arena scratch_;
  TrainState state_;
  Snapshot snapshot_;
};

// Every call is tried with FINBACK_FULL set, every fifth without.
std::uint64_t stride() { return std::getenv("FINBACK_FULL") ? 1 : 5; }

core::Exit exit_of(const std::function<void()>& f, std::string* what = nullptr) {
  try {
    f();
  } catch (const core::Error& e) {
    if (what) *what = e.what();
    return e.code();
  }
  return core::Exit::done;
}

void flip_bit(const std::string& path, std::uint64_t byte) {
  std::string bytes = core::read_file(path, 1 << 30);
  ASSERT_LT(byte, bytes.size());
  bytes[byte] = static_cast<char>(bytes[byte] ^ 0x10);
  core::write_file_atomic(path, bytes);
}

TEST_F(CheckpointTest, ReadsBackBitForBit) {
  const std::string path = save(3);
  EXPECT_EQ(fs::path(path).filename(), "step-00000030");
  EXPECT_EQ(fs::read_symlink(directory_ + "/latest"), "step-00000030");
  EXPECT_TRUE(faults_of(path).empty());
  EXPECT_TRUE(equal(load(path), state_));
}

TEST_F(CheckpointTest, KeepsTheNewestAndClearsWhatWasInterrupted) {
  for (std::uint64_t s = 1; s <= 4; ++s) save(s);
  fs::create_directories(directory_ + "/step-00000099.tmp/train_state");
  prune_checkpoints(directory_, 2);
  const auto left = list_checkpoints(directory_);
  ASSERT_EQ(left.size(), 2u);
  EXPECT_EQ(left[0].step, 40);
  EXPECT_EQ(left[1].step, 30);
  EXPECT_FALSE(fs::exists(directory_ + "/step-00000099.tmp"));
}

TEST_F(CheckpointTest, AFlippedBitAnywhereIsFoundAndTheOlderOneTaken) {
  const std::string older = save(1), newer = save(2);
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(newer)) {
    if (!entry.is_regular_file()) continue;
    ++files;
    const std::uint64_t size = entry.file_size();
    for (const std::uint64_t byte : {std::uint64_t{0}, size / 2, size - 1}) {
      flip_bit(entry.path(), byte);
      EXPECT_FALSE(faults_of(newer).empty()) << entry.path() << " byte " << byte;
      EXPECT_EQ(newest_whole(directory_)->path, older);
      flip_bit(entry.path(), byte);
    }
  }
  EXPECT_GE(files, 5);
  EXPECT_TRUE(faults_of(newer).empty());
  EXPECT_EQ(newest_whole(directory_)->path, newer);
}

TEST_F(CheckpointTest, AllFaultyIsAnErrorAndNoneIsNot) {
  EXPECT_FALSE(newest_whole(directory_));
  EXPECT_FALSE(newest_whole(directory_ + "/absent"));
  const std::string path = save(1);
  flip_bit(path + "/train_state/master.safetensors", 5000);
  std::string what;
  EXPECT_EQ(exit_of([&] { newest_whole(directory_); }, &what), core::Exit::bad_input);
}

TEST_F(CheckpointTest, LatestMayBeEmptyOrDangling) {
  const std::string path = save(1);
  fs::remove(directory_ + "/latest");
  fs::create_symlink("step-77777777.tmp", directory_ + "/latest");
  EXPECT_EQ(newest_whole(directory_)->path, path);
  fs::remove(directory_ + "/latest");
  core::write_file_atomic(directory_ + "/latest", "");
  EXPECT_EQ(newest_whole(directory_)->path, path);
  const std::string next = save(2);  // mends it
  EXPECT_EQ(newest_whole(directory_)->path, next);
  EXPECT_EQ(fs::read_symlink(directory_ + "/latest"), "step-00000020");
}

// Disk full, input/output errors, short writes and interrupted calls at every counted call of a save.
TEST_F(CheckpointTest, AFailedSaveLeavesTheOldOneAndNothingUnderTheNewName) {
  const std::string older = save(1);
  fill(state_, 2);
  snapshot_.copy(state_, context());
  core::set_fault("any:1000000:eio");
  const std::uint64_t before = core::counted_calls();
  write_checkpoint(directory_, content(), snapshot_);
  const std::uint64_t calls = core::counted_calls() - before;
  EXPECT_GT(calls, 20u);
  for (const char* action : {"eio", "enospc", "short", "eintr"}) {
    const bool harmless = action[0] == 's' || std::string_view(action) == "eintr";
    for (std::uint64_t n = 1; n <= calls; n += stride()) {
      fs::remove_all(directory_ + "/step-00000020");
      core::set_fault(fmt::format("any:{}:{}", n, action));
      const core::Exit e = exit_of([&] { write_checkpoint(directory_, content(), snapshot_); });
      core::set_fault("");
      EXPECT_TRUE(faults_of(older).empty());
      if (harmless) {
        EXPECT_EQ(e, core::Exit::done) << action << " " << n;
      } else {
        EXPECT_EQ(e, core::Exit::io) << action << " " << n;
      }
      // Only a fault after the rename may leave the new name, and then it is whole.
      if (fs::exists(directory_ + "/step-00000020")) {
        EXPECT_TRUE(faults_of(directory_ + "/step-00000020").empty()) << action << " " << n;
      }
    }
  }
  write_checkpoint(directory_, content(), snapshot_);
  prune_checkpoints(directory_, 5);
  EXPECT_TRUE(equal(load(newest_whole(directory_)->path), state_));
}

// kill -9 before every write, flush and rename of two saves with pruning: whatever was finished stays readable.
TEST_F(CheckpointTest, KilledAtAnyCallAFinishedCheckpointStays) {
  const auto child = [&](std::uint64_t n) {  // returns false when it ran to the end
    const pid_t pid = ::fork();
    if (pid == 0) {
      core::set_fault(fmt::format("any:{}:kill", n));
      for (std::uint64_t s = 2; s <= 3; ++s) {
        fill(state_, s);
        snapshot_.copy(state_, context());
        write_checkpoint(directory_, content(), snapshot_);
        prune_checkpoints(directory_, 2);
      }
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFSIGNALED(status);
  };
  std::uint64_t n = 1;
  std::int64_t reached = 10;
  for (;; n += stride()) {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    save(1);
    const bool killed = child(n);
    const auto whole = newest_whole(directory_);
    ASSERT_TRUE(whole) << "after call " << n;
    EXPECT_EQ(list_checkpoints(directory_).front().step, whole->step) << "a torn checkpoint has a final name, call " << n;
    EXPECT_GE(whole->step, reached) << "call " << n;  // later kills never find less
    reached = whole->step;
    fill(state_, static_cast<std::uint64_t>(whole->step / 10));
    EXPECT_TRUE(equal(load(whole->path), state_)) << "call " << n;
    if (!killed) break;
  }
  EXPECT_GT(n, 40u);
  EXPECT_EQ(reached, 30);
}

TEST_F(CheckpointTest, NothingThatIsNotFiniteIsKept) {
  state_.master.slabs[2].row<float>(0)[1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(exit_of([&] { snapshot_.copy(state_, context()); }), core::Exit::numeric);
}

TEST_F(CheckpointTest, AnotherModelIsRefusedWithTheFieldsThatDiffer) {
  const std::string path = save(1);
  model::ModelConfig other = config_;
  other.routed_scaling_factor = 1.5;
  CheckpointContent c{other, list_, core::DType::bf16, "", "run", 7, content().provenance};
  std::string what;
  EXPECT_EQ(exit_of([&] { read_checkpoint(path, c, {}, state_); }, &what), core::Exit::usage);
  EXPECT_NE(what.find("routed_scaling_factor: "), std::string::npos) << what;
}

TEST_F(CheckpointTest, ChangedDataIsRefusedUnlessAllowed) {
  const std::string path = save(1);
  CheckpointContent c = content();
  c.provenance.data["a.bin"] = 101;
  EXPECT_EQ(exit_of([&] { read_checkpoint(path, c, {}, state_); }), core::Exit::bad_input);
  EXPECT_EQ(exit_of([&] { read_checkpoint(path, c, {.allow_data_change = true}, state_); }), core::Exit::done);
}

TEST_F(CheckpointTest, ANewerFormatIsRefusedByItsNumber) {
  const std::string path = save(1), state = path + "/train_state/state.json";
  std::string text = core::read_file(state, 1 << 20);
  text.replace(text.find("\"format_version\": 1"), 19, "\"format_version\": 9");
  core::write_file_atomic(state, text);
  std::string what;
  EXPECT_EQ(exit_of([&] { read_checkpoint(path, content(), {}, state_); }, &what), core::Exit::bad_input);
  EXPECT_NE(what.find("format_version 9"), std::string::npos) << what;
}

// A checkpoint of every released format stays readable. FINBACK_RECORD_FIXTURES=1 writes that of the present one.
TEST_F(CheckpointTest, RecordedCheckpointsOfOlderFormatsAreRead) {
  const model::ModelConfig config = fixture_model();
  const model::ParameterList list = model::list_parameters(config);
  const CheckpointContent c{config, list, core::DType::bf16, "", "run", 7, {"build", "isa", "layout", {{"a.bin", 100}}}};
  TrainState expected(list, precision_, core::DType::bf16), found(list, precision_, core::DType::bf16);
  fill(expected, 5);
  const std::string folder = std::string(FINBACK_SOURCE_DIR) + "/tests/train/fixtures/";
  if (std::getenv("FINBACK_RECORD_FIXTURES")) {
    Snapshot snapshot(list, precision_, core::DType::bf16);
    snapshot.copy(expected, context());
    fs::remove_all(fmt::format("{}format-{}", folder, kCheckpointFormat));
    fs::rename(write_checkpoint(directory_, c, snapshot), fmt::format("{}format-{}", folder, kCheckpointFormat));
  }
  for (std::int64_t format = 1; format <= kCheckpointFormat; ++format) {
    const std::string path = fmt::format("{}format-{}", folder, format);
    EXPECT_EQ(faults_of(path), std::vector<std::string>{});
    EXPECT_EQ(read_checkpoint(path, c, {}, found), "run");
    EXPECT_TRUE(equal(expected, found)) << path;
  }
}

TEST_F(CheckpointTest, AReadOnlyFolderIsAnErrorOfTheSystem) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  fs::permissions(directory_, fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_EQ(exit_of([&] { write_checkpoint(directory_, content(), snapshot_); }), core::Exit::io);
  fs::permissions(directory_, fs::perms::owner_all);
}

}  // namespace
}  // namespace finback::train
