// Training held against the PyTorch twin (bench/peers/twin.py) under autograd. A case is a folder: a model, a recipe, and what the twin
// computed in each step; scripts/witness_training.py makes them and says what they hold. A few small ones are recorded in
// tests/train/vectors; FINBACK_WITNESS names a folder of others.
#include "core/error.h"
#include "formats/safetensors.h"
#include "train/trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace finback::train {
namespace {

class Case {
 public:
  explicit Case(const std::string& folder)
      : name(std::filesystem::path(folder).filename()),
        run(read_run_config(folder + "/run.toml")),
        model(model::read_config(folder + "/config.json")),
        list(model::list_parameters(model)),
        file_(folder + "/training.safetensors") {}

  // Entry `step` of a tensor [steps, …].
  template <class T>
  std::vector<T> at(const std::string& tensor, std::int64_t step) const {
    const formats::TensorInfo* info = file_.find(tensor);
    FB_CHECK(info && !info->shape.empty() && step < info->shape[0], "{} has no step {} of {}", name, step, tensor);
    const std::uint64_t bytes = info->bytes() / static_cast<std::uint64_t>(info->shape[0]);
    std::vector<T> values(bytes / sizeof(T));
    FB_CHECK(formats::dtype_of(info->dtype) == dtype<T>() && values.size() * sizeof(T) == bytes, "{}: {} is {}", name, tensor, info->dtype);
    file_.read(*info, values.data(), static_cast<std::uint64_t>(step) * bytes, bytes);
    return values;
  }
  double figure(const std::string& tensor, std::int64_t step) const { return at<double>(tensor, step).at(0); }

  const std::string name;
  const RunConfig run;
  const model::ModelConfig model;
  const model::ParameterList list;

 private:
  template <class T>
  static core::DType dtype() {
    return std::is_same_v<T, double> ? core::DType::f64 : sizeof(T) == 4 ? core::DType::i32 : core::DType::i64;
  }
  formats::SafetensorsFile file_;
};

std::vector<std::string> cases() {
  std::vector<std::string> folders;
  const char* fresh = std::getenv("FINBACK_WITNESS");
  for (const auto& entry : std::filesystem::directory_iterator(fresh ? fresh : FINBACK_SOURCE_DIR "/tests/train/vectors"))
    if (entry.is_directory()) folders.push_back(entry.path());
  FB_CHECK(!folders.empty(), "no case in {}", fresh ? fresh : "tests/train/vectors");
  std::sort(folders.begin(), folders.end());
  return folders;
}

// The largest of many relative differences, and where it was. A NaN is the largest of all.
struct Worst {
  double value = 0;
  std::string where;
  void see(double difference, const std::string& at) {
    if (std::isnan(value) || difference <= value) return;
    value = difference;
    where = at;
  }
};

struct Differences {
  Worst gradient;   // of a tensor: norm of the difference over the norm
  Worst parameter;  // likewise
  Worst logits;     // over the largest
  Worst loss;       // of the step's losses and of its gradient norm
};

double over(double difference, double whole) { return difference == 0 ? 0 : difference / whole; }

double element(core::ConstMat x, std::int64_t i) {
  const std::int64_t row = i / x.cols, column = i % x.cols;
  return x.dtype == core::DType::f64 ? x.row<double>(row)[column] : static_cast<double>(x.row<float>(row)[column]);
}

double distance(core::ConstMat got, const std::vector<double>& want) {
  FB_CHECK(static_cast<std::size_t>(got.size()) == want.size(), "{} values, {} wanted", got.size(), want.size());
  double difference = 0, whole = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    difference += std::pow(element(got, static_cast<std::int64_t>(i)) - want[i], 2);
    whole += want[i] * want[i];
  }
  return over(std::sqrt(difference), std::sqrt(whole));
}

void assign(core::Mat x, const std::vector<double>& values) {
  FB_CHECK(static_cast<std::size_t>(x.size()) == values.size(), "{} values, {} given", x.size(), values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::int64_t row = static_cast<std::int64_t>(i) / x.cols, column = static_cast<std::int64_t>(i) % x.cols;
    if (x.dtype == core::DType::f64) x.row<double>(row)[column] = values[i];
    else x.row<float>(row)[column] = static_cast<float>(values[i]);
  }
}

// The kernel that forms the losses sees all logits, those of the MTP modules too, which nothing else gives out: a table whose
// cross-entropy keeps what it is given.
struct SeenRow {
  std::int32_t target;
  std::vector<double> logits;
};
std::vector<SeenRow> seen;
decltype(kernels::Table::cross_entropy) true_cross_entropy;
void seen_cross_entropy(const kernels::Context& ctx, core::ConstMat logits, std::span<const std::int32_t> targets, double scale,
                        core::Mat loss, core::Mat best, core::Mat dlogits) {
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    seen.push_back({targets[static_cast<std::size_t>(t)], {}});
    for (std::int64_t w = 0; w < logits.cols; ++w) seen.back().logits.push_back(element(logits.row_range(t, 1), w));
  }
  true_cross_entropy(ctx, logits, targets, scale, loss, best, dlogits);
}
kernels::Table watched(const kernels::Table& table) {
  kernels::Table copy = table;
  true_cross_entropy = table.cross_entropy;
  copy.cross_entropy = seen_cross_entropy;
  return copy;
}

// The rows of a step's scored tokens. A micro-batch's head runs over the main model first, then over the last MTP module to the first.
void compare_logits(const Case& c, std::int64_t step, Worst& worst) {
  const std::int64_t depths = c.model.num_nextn_predict_layers, W = c.model.vocab_size;
  const std::int64_t tokens = c.run.train.micro_batch * c.run.data.seq_len;
  ASSERT_EQ(static_cast<std::int64_t>(seen.size()), c.run.train.global_batch * c.run.data.seq_len * (1 + depths));
  for (std::int64_t depth = 0; depth <= depths; ++depth) {
    const std::string name = depth == 0 ? "logits.main" : fmt::format("logits.mtp.{}", depth);
    const std::vector<double> want = c.at<double>(name, step);
    double difference = 0, largest = 0;
    std::int64_t scored = 0;
    for (std::int64_t row = 0; row < c.run.train.global_batch * c.run.data.seq_len; ++row) {
      const std::int64_t turn = depth == 0 ? 0 : depths - depth + 1;
      const SeenRow& got = seen[static_cast<std::size_t>((row / tokens * (1 + depths) + turn) * tokens + row % tokens)];
      if (got.target < 0) continue;
      ++scored;
      for (std::int64_t w = 0; w < W; ++w) {
        const double x = want[static_cast<std::size_t>(row * W + w)];
        difference = std::max(difference, std::abs(got.logits[static_cast<std::size_t>(w)] - x));
        largest = std::max(largest, std::abs(x));
      }
    }
    EXPECT_GT(scored, 0) << name;
    worst.see(over(difference, largest), fmt::format("{}, step {}, {}", c.name, step, name));
  }
}

struct Replay {
  std::string precision;
  // Every step begins with the twin's parameters. Otherwise only the first does.
  bool restart = false;
  // Makes the twin's gradients larger by this share, as an error would.
  double planted = 0;
};

Differences replay(const Case& c, const kernels::Table& kernels, const Replay& how) {
  RunConfig run = c.run;
  run.train.precision = how.precision;
  const std::int64_t batch = run.train.global_batch;
  const TokenSource tokens = [&](std::int64_t first, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) {
    const auto in = c.at<std::int32_t>("inputs", first / batch), out = c.at<std::int32_t>("targets", first / batch);
    FB_CHECK(in.size() == inputs.size() && out.size() == targets.size());
    std::copy(in.begin(), in.end(), inputs.begin());
    std::copy(out.begin(), out.end(), targets.begin());
  };
  core::Team team(1);
  const kernels::Table table = watched(kernels);
  Trainer trainer(run, c.model, c.list, team, table, tokens);
  TrainState& state = trainer.state();

  Differences worst;
  for (std::int64_t step = 0; step < run.train.steps; ++step) {
    const std::string at = fmt::format("{}, {} on {}, step {}", c.name, how.precision, kernels.name, step);
    if (step == 0 || how.restart) {
      for (const model::Parameter& p : c.list.parameters) assign(state.master.of(p), c.at<double>("parameter." + p.name, step));
      state.refresh_weights(trainer.context());
    }
    seen.clear();
    const StepReport report = trainer.step();
    EXPECT_EQ(report.outcome, StepOutcome::updated) << at;
    for (const model::Parameter& p : c.list.parameters) {
      if (!how.restart)
        worst.parameter.see(distance(state.master.of(p), c.at<double>("parameter." + p.name, step + 1)), at + ", " + p.name);
      if (!c.list.slabs[static_cast<std::size_t>(p.slab)].trained) continue;
      std::vector<double> want = c.at<double>("gradient." + p.name, step);
      for (double& x : want) x *= 1 + how.planted;
      worst.gradient.see(distance(state.gradients.of(p), want), at + ", " + p.name);
    }
    compare_logits(c, step, worst.logits);
    for (const auto& [name, got] : {std::pair{"loss", report.loss},
                                    {"mtp_loss", report.mtp_loss},
                                    {"balance_loss", report.balance_loss},
                                    {"grad_norm", report.grad_norm}}) {
      const double want = c.figure(name, step);
      worst.loss.see(over(std::abs(got - want), std::abs(want)), at + ", " + name);
    }
    const auto load = c.at<std::int64_t>("expert_load", step);
    EXPECT_TRUE(std::equal(load.begin(), load.end(), report.expert_load.begin(), report.expert_load.end())) << at;
  }
  return worst;
}

// Fails beyond the limit; tells scripts/witness_training.py the value.
void expect_within(const Worst& worst, double limit, const std::string& property) {
  EXPECT_LE(worst.value, limit) << worst.where;
  ::testing::Test::RecordProperty("worst_" + property, fmt::format("{:.2e}", worst.value));
}

void merge(Worst& all, const Worst& one) { all.see(one.value, one.where); }
void merge(Differences& all, const Differences& one) {
  merge(all.gradient, one.gradient);
  merge(all.parameter, one.parameter);
  merge(all.logits, one.logits);
  merge(all.loss, one.loss);
}

// In float64 the whole run stays with the twin: every step's gradients, losses, logits and loads, clipping, the schedule, AdamW and the
// gate's bias, each step's error carried into the next.
TEST(Witness, AFloat64RunIsThatOfTheTwin) {
  Differences all;
  for (const std::string& folder : cases()) merge(all, replay(Case(folder), kernels::reference(), {.precision = "fp64"}));
  expect_within(all.gradient, 1e-7, "fp64_gradient");
  expect_within(all.parameter, 1e-7, "fp64_parameter");
  expect_within(all.logits, 1e-7, "fp64_logits");
  expect_within(all.loss, 1e-7, "fp64_loss");
}

// In float32 each step starts anew from the twin's parameters: rounding would carry two runs apart, which says nothing of gradients.
TEST(Witness, Float32GradientsAreThoseOfTheTwin) {
  Differences all;
  for (const std::string& folder : cases())
    for (const std::string_view isa : kernels::runnable())
      merge(all, replay(Case(folder), kernels::by_name(isa), {.precision = "fp32", .restart = true}));
  expect_within(all.gradient, 1e-4, "fp32_gradient");
  expect_within(all.logits, 2e-5, "fp32_logits");
  expect_within(all.loss, 2e-5, "fp32_loss");
}

TEST(Witness, AnErrorOfOneInAMillionIsSeen) {
  const Case c(cases().front());
  EXPECT_GT(replay(c, kernels::reference(), {.precision = "fp64", .planted = 1e-6}).gradient.value, 1e-7);
}

}  // namespace
}  // namespace finback::train
