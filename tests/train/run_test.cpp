// Whole runs in a folder of their own: what they write, and that stopping, killing or breaking them costs nothing that a finished
// checkpoint held.
#include "train/run.h"

#include "comm/threads.h"
#include "core/file.h"
#include "core/json.h"
#include "core/rng.h"
#include "formats/megatron.h"
#include "tests/train/allocations.h"
#include "tests/train/tiny_model.h"
#include "text/tokenizer.h"
#include "train/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <thread>

namespace finback::train {
namespace {

namespace fs = std::filesystem;

constexpr std::int32_t kEos = 256;

class RunTest : public ::testing::Test {
 protected:
  RunTest() : folder_(fs::temp_directory_path() / fmt::format("finback run {}", ::getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    text::Vocabulary v;
    for (int b = 0; b < 256; ++b) v.tokens.push_back(std::string(1, static_cast<char>(b)));
    v.tokens.emplace_back("<eos>");
    v.special = {kEos};
    v.eos = "<eos>";
    text::Tokenizer(std::move(v)).save(folder_ + "/tokenizer");
    model::ModelConfig m = tiny_model();
    m.vocab_size = 260;
    m.eos_token_id = kEos;
    core::write_file_atomic(folder_ + "/config.json", core::pretty_json(model::to_json(m)));
    write_text("train", 40, 1);
    write_text("valid", 1, 2);
  }
  ~RunTest() override {
    core::set_fault("");
    fs::remove_all(folder_);
  }

  void write_text(const std::string& name, int documents, std::uint64_t seed) {
    formats::TokenFileWriter writer(folder_ + "/" + name, core::DType::u16);
    const core::Rng rng(seed, core::Stream::test);
    std::uint64_t i = 0;
    for (int d = 0; d < documents; ++d) {
      std::vector<std::int32_t> ids;
      for (int n = 0; n < 30; ++n)
        for (const char c : std::string_view(rng.below(i++, 2) ? "the cat " : "a d\xc3\xb6g "))
          ids.push_back(static_cast<unsigned char>(c));
      ids.push_back(kEos);
      writer.add_document(ids);
    }
    writer.commit();
  }

  RunConfig config(const std::string& run, std::vector<std::string> more = {}) {
    std::vector<std::string> overrides = {"output.dir=" + folder_ + "/" + run};
    overrides.insert(overrides.end(), more.begin(), more.end());
    const std::string text = fmt::format(
        "[model]\nconfig = '{0}/config.json'\n[data]\ntrain = ['{0}/train.bin']\nvalid = '{0}/valid.bin'\ntokenizer = "
        "'{0}/tokenizer'\nseq_len = 8\n"
        "[train]\nsteps = 12\nglobal_batch = 4\nmicro_batch = 2\nthreads = 1\n[optimizer]\nlr = 1e-2\nwarmup_steps = 2\n"
        "[checkpoint]\nevery = 4\n[eval]\nevery = 6\n[output]\ndir = 'unset'\n",
        folder_);
    return parse_run_config(text, "test.toml", overrides);
  }

  std::string checkpoints(const std::string& run) const { return folder_ + "/" + run + "/checkpoints"; }

  // The run in a process of its own, with a fault for core::set_fault or "allocation:N"; returns what waitpid tells. A run that
  // ends before its N-th allocation exits with kNoFault.
  static constexpr int kNoFault = 77;
  int in_child(const RunConfig& c, const RunOptions& options, const std::string& fault = {},
               const std::function<void(pid_t)>& meanwhile = {}) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      if (::getenv("FINBACK_TEST_VERBOSE") == nullptr && std::freopen("/dev/null", "w", stderr) == nullptr) ::_exit(99);
      constexpr std::string_view kAllocation = "allocation:";
      const bool of_allocation = fault.starts_with(kAllocation);
      if (of_allocation) fail_allocation(std::stol(fault.substr(kAllocation.size())));
      else core::set_fault(fault);
      int code = 1;
      try {
        code = static_cast<int>(run_training(c, options));
      } catch (const core::Error& e) {
        code = static_cast<int>(e.code());
      } catch (const std::exception&) {  // as main() does
        code = 1;
      }
      ::_exit(of_allocation && !allocation_failed() ? kNoFault : code);
    }
    if (meanwhile) meanwhile(pid);
    int status = 0;
    ::waitpid(pid, &status, 0);
    return status;
  }
  static int exit_code(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status); }

  // Every byte of the state that the newest checkpoint holds.
  std::string state_bytes(const std::string& run) {
    const auto newest = newest_whole(checkpoints(run));
    if (!newest) return {};
    std::string bytes = fmt::format("{} ", newest->step);
    for (const char* name : {"model", "train_state/master", "train_state/exp_avg", "train_state/exp_avg_sq"})
      bytes += core::read_file(fmt::format("{}/{}.safetensors", newest->path, name), 1 << 28);
    if (const std::string ema = newest->path + "/train_state/ema.safetensors"; fs::exists(ema)) bytes += core::read_file(ema, 1 << 28);
    return bytes;
  }

  const std::string folder_;
};

std::uint64_t stride(std::uint64_t fast) { return std::getenv("FINBACK_FULL") ? 1 : fast; }

TEST_F(RunTest, WritesWhatAPersonLooksAt) {
  EXPECT_EQ(run_training(config("a"), {.ceiling_flops = 1e11, .build = "test"}), core::Exit::done);
  const std::string dir = folder_ + "/a/";
  const auto summary = core::read_json_file(dir + "summary.json").as_object();
  EXPECT_TRUE(summary.at("finished").as_bool());
  for (const char* field : {"val_nats_per_char", "val_bits_per_byte", "train_seconds", "total_seconds", "tokens_per_s", "mtp_acceptance"})
    EXPECT_TRUE(summary.at(field).is_number()) << field;
  EXPECT_LT(summary.at("val_nats_per_char").to_number<double>(), 5.6);
  EXPECT_GT(summary.at("val_nats_per_char").to_number<double>(), 0.1);
  const std::string metrics = core::read_file(dir + "metrics.jsonl", 1 << 24);
  int steps = 0, evaluations = 0, loads = 0;
  for (std::size_t begin = 0; begin < metrics.size(); begin = metrics.find('\n', begin) + 1) {
    const auto line = core::parse_json(metrics.substr(begin, metrics.find('\n', begin) - begin), "line").as_object();
    steps += line.contains("loss");
    evaluations += line.contains("val_nats_per_token");
    loads += line.contains("expert_load");
  }
  EXPECT_EQ(steps, 12);
  EXPECT_EQ(evaluations, 2);
  EXPECT_EQ(loads, 12);
  const std::string report = core::read_file(dir + "report.html", 1 << 24);
  for (const char* part : {"Gradient norm", "Load of every expert", "MTP acceptance", "Learning rate", "step 12 of 12"})
    EXPECT_NE(report.find(part), std::string::npos) << part;
  EXPECT_EQ(report.find("<script src"), std::string::npos);
  EXPECT_EQ(list_checkpoints(checkpoints("a")).size(), 2u);
  for (const char* file : {"config.json", "tokenizer.json", "model.safetensors", "train_state/state.json"})
    EXPECT_TRUE(fs::exists(checkpoints("a") + "/latest/" + file)) << file;
  bool events = false;
  for (const auto& entry : fs::directory_iterator(dir)) events |= entry.path().filename().string().rfind("events.out.tfevents", 0) == 0;
  EXPECT_TRUE(events);
  EXPECT_EQ(to_toml(read_run_config(dir + "run.toml")), to_toml(config("a")));
}

// bytes and characters are the file's: nats are over the text alone, not over the marks between documents.
TEST_F(RunTest, EvaluationCountsTheFilesCharacters) {
  run_training(config("a"), {});
  const auto s = core::read_json_file(folder_ + "/a/summary.json").as_object();
  const formats::TokenFile valid(folder_ + "/valid.bin");
  std::int64_t bytes = 0, characters = 0;
  for (std::int64_t d = 0; d < valid.sequences(); ++d) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(valid.length(d)));
    valid.read(d, 0, ids);
    for (const std::int32_t id : ids) {
      bytes += id < 256;
      characters += id < 256 && (id & 0xc0) != 0x80;
    }
  }
  ASSERT_LT(characters, bytes);
  const double nats = s.at("val_nats_per_token").to_number<double>() * static_cast<double>(valid.tokens());
  EXPECT_NEAR(s.at("val_nats_per_char").to_number<double>(), nats / static_cast<double>(characters), 1e-9);
  EXPECT_NEAR(s.at("val_bits_per_byte").to_number<double>(), nats / 0.6931471805599453 / static_cast<double>(bytes), 1e-9);
}

// Sends a signal after the first step, while the run stands still before its last one: only then does it surely listen to signals.
// Nothing is sent to a run that was faster.
void stop_midway(pid_t pid, const std::string& metrics, int steps, int signal) {
  const auto lines = [&] {
    const std::string text = fs::exists(metrics) ? core::read_file(metrics, 1 << 24) : "";
    return std::count(text.begin(), text.end(), '\n');
  };
  while (lines() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ::kill(pid, SIGSTOP);
  siginfo_t state;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(pid), &state, WSTOPPED | WEXITED | WNOWAIT), 0);
  if (state.si_code == CLD_STOPPED && lines() < steps) ::kill(pid, signal);
  ::kill(pid, SIGCONT);
}

TEST_F(RunTest, AStoppedRunGoesOnWithTheSameBits) {
  ASSERT_EQ(exit_code(in_child(config("whole"), {})), 0);
  const std::string whole = state_bytes("whole");
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
    fs::remove_all(folder_ + "/stopped");
    const int status = in_child(config("stopped", {"train.steps=12"}), {}, {},
                                [&](pid_t pid) { stop_midway(pid, folder_ + "/stopped/metrics.jsonl", 12, signal); });
    if (exit_code(status) != 0) {  // it may have been faster than the signal
      EXPECT_EQ(exit_code(status), 7);
      EXPECT_LT(newest_whole(checkpoints("stopped"))->step, 12);
      EXPECT_FALSE(core::read_json_file(folder_ + "/stopped/summary.json").at("finished").as_bool());
      ASSERT_EQ(exit_code(in_child(config("stopped"), {.resume = true})), 0);
    }
    EXPECT_EQ(state_bytes("stopped"), whole) << signal;
  }
}

// Over ranks a run gives the bits of one process told their layout, and goes on from its own checkpoint with the same bits.
void over_ranks(int n, const RunConfig& c, const RunOptions& options) {
  comm::run_threads(n, {.timeout = 60}, [&](comm::Communicator& ranks) {
    RunOptions mine = options;
    mine.ranks = &ranks;
    EXPECT_EQ(run_training(c, mine), core::Exit::done);
  });
}

TEST_F(RunTest, RanksSaveAndResumeAsOneProcessWould) {
  const std::vector<std::string> layout{
      "parallel.pp=2",       "parallel.dp=2",        "parallel.ep=2",          "parallel.schedule=dualpipe",
      "train.micro_batch=1", "train.global_batch=4", "optimizer.ema_decay=0.9"};
  EXPECT_EQ(run_training(config("one", layout), {.as_layout = true}), core::Exit::done);
  const RunConfig four = config("four", layout);
  over_ranks(4, four, {});
  EXPECT_TRUE(state_bytes("four") == state_bytes("one"));
  const auto summary = [&](const std::string& run) { return core::read_json_file(folder_ + "/" + run + "/summary.json").as_object(); };
  EXPECT_EQ(summary("four").at("loss_bits"), summary("one").at("loss_bits"));
  EXPECT_NEAR(summary("four").at("val_nats_per_token").as_double(), summary("one").at("val_nats_per_token").as_double(), 1e-12);

  fs::remove_all(checkpoints("four") + "/step-00000012");
  over_ranks(4, four, {.resume = true});
  EXPECT_TRUE(state_bytes("four") == state_bytes("one"));
  EXPECT_THROW(run_training(four, {.resume = true}), core::Error);  // one process is not four ranks
}

// Another layout is another tree of sums, from the same state: the next step's tokens have the same losses, whose sum alone may differ.
TEST_F(RunTest, AnyLayoutResumesWhatAnotherSaved) {
  const std::vector<std::string> batches{"train.micro_batch=1", "train.global_batch=4", "train.precision=fp32"};
  struct Layout {
    int ranks;
    std::vector<std::string> set;
  };
  const Layout layouts[] = {{4, {"parallel.pp=2", "parallel.dp=2", "parallel.ep=2", "parallel.schedule=dualpipe"}},
                            {1, {}},
                            {2, {"parallel.dp=2"}},
                            {3, {"parallel.pp=3", "parallel.schedule=zb1p"}},
                            {4, {"parallel.pp=2", "parallel.dp=2", "parallel.schedule=dualpipev"}},
                            {4, {"parallel.dp=4", "parallel.ep=4"}}};
  const auto train = [&](const Layout& l, const std::string& run, int steps, bool resume) {
    std::vector<std::string> set = batches;
    set.insert(set.end(), l.set.begin(), l.set.end());
    set.push_back(fmt::format("train.steps={}", steps));
    if (l.ranks == 1) EXPECT_EQ(run_training(config(run, set), {.resume = resume}), core::Exit::done);
    else over_ranks(l.ranks, config(run, set), {.resume = resume});
    return core::read_json_file(folder_ + "/" + run + "/summary.json").as_object().at("train_loss").as_double();
  };
  train(layouts[0], "saved", 4, false);
  std::vector<double> next, later;
  for (std::size_t i = 0; i < std::size(layouts); ++i) {
    const std::string run = fmt::format("resumed{}", i);
    fs::copy(folder_ + "/saved", folder_ + "/" + run, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
    next.push_back(train(layouts[i], run, 5, true));
    EXPECT_NEAR(next[i], next[0], 1e-14 * next[0]) << i;
    later.push_back(train(layouts[i], run, 14, true));
    EXPECT_NEAR(later[i], later[0], 1e-4 * later[0]) << i;
  }
}

TEST_F(RunTest, ASecondSignalEndsAtOnce) {
  const int status = in_child(config("a", {"train.steps=100000"}), {}, {}, [&](pid_t pid) {
    while (!fs::exists(folder_ + "/a/metrics.jsonl")) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ::kill(pid, SIGSTOP);  // so that both arrive within one step
    ::kill(pid, SIGINT);
    ::kill(pid, SIGTERM);
    ::kill(pid, SIGCONT);
  });
  EXPECT_EQ(exit_code(status), 130);
}

// kill -9 before the n-th write, flush or rename of a run, for every n: what follows --resume has the bits of a run never killed.
TEST_F(RunTest, KilledAnywhereItResumesBitForBit) {
  ASSERT_EQ(exit_code(in_child(config("whole"), {})), 0);
  const std::string whole = state_bytes("whole");
  std::uint64_t n = 1;
  for (;; n += stride(41)) {
    fs::remove_all(folder_ + "/killed");
    const int status = in_child(config("killed"), {}, fmt::format("any:{}:kill", n));
    ASSERT_TRUE(WIFSIGNALED(status) || exit_code(status) == 0) << n;
    ASSERT_EQ(exit_code(in_child(config("killed"), {.resume = true})), 0) << n;
    ASSERT_EQ(state_bytes("killed"), whole) << "killed before call " << n;
    if (!WIFSIGNALED(status)) break;
  }
  EXPECT_GT(n, 100u);
}

// The disk refuses one call: the save is loud and tried again later; training and its bits are unharmed.
TEST_F(RunTest, AFailedSaveDoesNotStopTraining) {
  ASSERT_EQ(exit_code(in_child(config("whole"), {})), 0);
  for (const char* action : {"enospc", "eio"}) {
    for (std::uint64_t n = 1; n <= 60; n += stride(25)) {
      fs::remove_all(folder_ + "/hit");
      ASSERT_EQ(exit_code(in_child(config("hit"), {}, fmt::format("fsync:{}:{}", n + 10, action))), 0) << n;
      EXPECT_EQ(state_bytes("hit"), state_bytes("whole")) << n;
    }
  }
}

TEST_F(RunTest, SavesThatFailToTheEndExitWithFour) {
  const int status = in_child(config("a", {"train.steps=100000", "checkpoint.every=0", "checkpoint.tries=2"}), {}, {}, [&](pid_t pid) {
    while (!fs::exists(folder_ + "/a/metrics.jsonl")) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    fs::remove_all(checkpoints("a"));
    core::write_file_atomic(checkpoints("a"), "a file where the folder was, which stops root too");
    ::kill(pid, SIGTERM);
  });
  EXPECT_EQ(exit_code(status), 4);
}

// Memory that cannot be had ends the run, or only a save, with an error: never with a crash or a wait without end. Closest
// together where the run is set up.
TEST_F(RunTest, AnAllocationThatFailsIsAnErrorWhereverItHappens) {
  const RunConfig c = config("a", {"train.threads=2"});
  const long closeness = std::getenv("FINBACK_FULL") ? 64 : 5;
  int tried = 0, ended = 0;
  for (long n = 1;; n += 1 + n / closeness, ++tried) {
    fs::remove_all(folder_ + "/a");
    const int code = exit_code(in_child(c, {}, fmt::format("allocation:{}", n)));
    if (code == kNoFault) break;
    ASSERT_TRUE(code == 0 || code == 1 || code == 4) << "allocation " << n << ": " << code;
    ended += code != 0;
  }
  EXPECT_GT(tried, 30);
  EXPECT_GT(ended, 10);
}

TEST_F(RunTest, ARunningRunIsLocked) {
  const int status = in_child(config("a", {"train.steps=100000"}), {}, {}, [&](pid_t pid) {
    while (!fs::exists(folder_ + "/a/metrics.jsonl")) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    try {
      run_training(config("a"), {.resume = true});
      ADD_FAILURE() << "two processes write one run";
    } catch (const core::Error& e) {
      EXPECT_EQ(e.code(), core::Exit::usage);
      EXPECT_NE(std::string(e.what()).find(fmt::format("process {}", pid)), std::string::npos) << e.what();
    }
    ::kill(pid, SIGKILL);
  });
  EXPECT_EQ(exit_code(status), -SIGKILL);
  EXPECT_EQ(run_training(config("a", {"train.steps=12"}), {.resume = true}), core::Exit::done);  // a dead holder's lock is no lock
}

TEST_F(RunTest, DivergenceEndsWithTheLastGoodCheckpointNamed) {
  // A learning rate that no model survives; the clip is off so that nothing tames it.
  const RunConfig c =
      config("a", {"train.steps=400", "optimizer.lr=1e6", "optimizer.min_lr=1e6", "optimizer.grad_clip=0", "guard.max_bad_steps=3",
                   "train.precision=fp32", "optimizer.weight_decay=0", "checkpoint.every=1", "eval.every=0"});
  try {
    run_training(c, {});
    ADD_FAILURE() << "the model survived";
  } catch (const core::Error& e) {
    EXPECT_EQ(e.code(), core::Exit::numeric) << e.what();
    EXPECT_NE(std::string_view(e.what()).find("the last good checkpoint is"), std::string_view::npos) << e.what();
  }
  for (const CheckpointEntry& entry : list_checkpoints(checkpoints("a"))) EXPECT_TRUE(faults_of(entry.path).empty());
  // As does a run that comes to its end before it has skipped so many steps in a row.
  fs::remove_all(folder_ + "/a");
  RunConfig short_run = c;
  short_run.train.steps = 40;
  short_run.guard.max_bad_steps = 1000;
  EXPECT_EQ(exit_code(in_child(short_run, {})), 5);
}

TEST_F(RunTest, WrongWaysToStartAreErrorsBeforeTheFirstStep) {
  const auto code = [](const std::function<void()>& f) {
    try {
      f();
    } catch (const core::Error& e) {
      return e.code();
    }
    return core::Exit::done;
  };
  run_training(config("a"), {});
  EXPECT_EQ(code([&] { run_training(config("a"), {}); }), core::Exit::usage);  // without --resume
  EXPECT_EQ(code([&] { run_training(config("b", {"model.config=/nowhere"}), {}); }), core::Exit::io);
  EXPECT_EQ(code([&] { run_training(config("b", {"data.train=/nowhere.bin"}), {}); }), core::Exit::io);
  EXPECT_EQ(code([&] { run_training(config("b", {"output.dir=/proc/b"}), {}); }), core::Exit::io);  // nobody may write there
  EXPECT_EQ(code([&] {
              run_training(config("b", {"data.seq_len=16777216", "train.micro_batch=16", "train.global_batch=16"}), {});
            }),
            core::Exit::usage);
  write_text("train", 41, 1);
  EXPECT_EQ(code([&] { run_training(config("a", {"train.steps=14"}), {.resume = true}); }), core::Exit::bad_input);
  EXPECT_EQ(code([&] { run_training(config("a", {"train.steps=14"}), {.resume = true, .allow_data_change = true}); }), core::Exit::done);
}

// The promise of docs/training.md, on a process of its own: its peak is within a tenth of what it accounts for.
TEST_F(RunTest, ThePeakOfTheProcessIsWhatIsAccountedFor) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer has memory of its own";
#endif
  model::ModelConfig m = tiny_model();
  m.vocab_size = 100'000;
  m.hidden_size = 64;
  core::write_file_atomic(folder_ + "/config.json", core::pretty_json(model::to_json(m)));
  const RunConfig c = config("a", {"train.steps=2", "data.seq_len=32", "data.valid="});
  core::write_file_atomic(folder_ + "/run.toml", to_toml(c));
  if (!fs::exists(FINBACK_BINARY)) GTEST_SKIP() << "finback is not built";
  ASSERT_EQ(std::system(fmt::format("'{}' train '{}/run.toml' 2>/dev/null", FINBACK_BINARY, folder_).c_str()), 0);
  const auto summary = core::read_json_file(folder_ + "/a/summary.json").as_object();
  const double peak = summary.at("peak_rss_bytes").to_number<double>(), accounted = summary.at("accounted_bytes").to_number<double>();
  EXPECT_NEAR(peak / accounted, 1, 0.1) << peak << " " << accounted;
}

TEST_F(RunTest, CheckTellsMemoryAndTrainsNothing) {
  const std::string text = check_run(config("a"));
  for (const char* part : {"gradients", "activations", "million parameters", "warmup_steps", "total"})
    EXPECT_NE(text.find(part), std::string::npos) << part;
  EXPECT_FALSE(fs::exists(folder_ + "/a"));
}

}  // namespace
}  // namespace finback::train
