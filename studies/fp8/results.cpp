#include "studies/fp8/results.h"

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "formats/megatron.h"
#include "train/history.h"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value_from.hpp>
#include <boost/json/value_to.hpp>

#include <algorithm>
#include <limits>
#include <sstream>

namespace finback::studies {
namespace {

namespace json = boost::json;
using core::Error;
using core::Exit;

constexpr std::uint64_t kMaxFile = std::uint64_t{64} << 20;

json::object read_object(const std::string& path) {
  const json::value value = core::read_json_file(path);
  if (!value.is_object()) throw Error(Exit::bad_input, "not a JSON object", path, "run the study again");
  return value.get_object();
}

train::History read_history(const std::string& folder) {
  train::History history;
  std::istringstream lines(core::read_file(folder + "/metrics.jsonl", kMaxFile));
  for (std::string line; std::getline(lines, line);) history.add_line(line, std::numeric_limits<std::int64_t>::max());
  return history;
}

// `finback train` has written that it came to the last step.
bool is_complete(const std::string& folder) {
  const std::string summary = folder + "/summary.json";
  return core::exists(summary) && read_object(summary).at("finished").as_bool();
}

Run read_run(const std::string& name, const std::string& settings, const std::string& folder) {
  Run run{name, settings, json::value_to<std::string>(read_object(folder + "/run.json").at("isa"))};
  const train::History history = read_history(folder);
  for (const train::EvaluationRecord& e : history.evaluations) {
    run.step.push_back(static_cast<double>(e.step));
    run.held_out.push_back(e.nats_per_token);
  }
  double sum = 0;
  int count = 0;
  for (const train::StepRecord& s : history.steps) {
    run.nonfinite_tiles += s.nonfinite_tiles;
    sum += s.loss;
    if (++count % Run::kTrainingSteps != 0) continue;
    run.training.push_back(sum / Run::kTrainingSteps);
    sum = 0;
  }
  return run;
}

// Memory that `finback bench train --json` took for one micro-batch, in bytes a token.
double bytes_per_token(const json::object& bench, std::string_view key) {
  return bench.at(key).to_number<double>() / (bench.at("batch").to_number<double>() * bench.at("seq").to_number<double>());
}

double number(const json::value& o, std::string_view key) { return o.at(key).to_number<double>(); }
std::string text(const json::value& o, std::string_view key) { return json::value_to<std::string>(o.at(key)); }
std::vector<double> numbers(const json::value& o, std::string_view key) { return json::value_to<std::vector<double>>(o.at(key)); }

std::vector<AccumulationError> accumulation_from(const json::value& list) {
  std::vector<AccumulationError> out;
  for (const json::value& e : list.as_array())
    out.push_back({text(e, "distribution"), e.at("rows").as_int64(), e.at("k").as_int64(), static_cast<int>(e.at("bits").as_int64()),
                   e.at("promote").as_bool(), number(e, "largest_to_largest"), number(e, "largest_to_rms"), number(e, "rms_to_rms"),
                   number(e, "mean_relative"), number(e, "largest_relative"), number(e, "bias")});
  return out;
}

Storage read_storage(const std::string& name, const std::string& work) {
  const json::object whole = read_object(work + "/storage-" + name + ".json");
  const json::object shallow = read_object(work + "/storage-" + name + "-shallow.json");
  const double taken = bytes_per_token(whole, "activation_bytes");
  return {name, taken, bytes_per_token(whole, "activation_bytes_computed"), taken - bytes_per_token(shallow, "activation_bytes")};
}

}  // namespace

const Run* Results::find(std::string_view name) const {
  const auto at = std::find_if(runs.begin(), runs.end(), [&](const Run& r) { return r.name == name; });
  return at == runs.end() ? nullptr : &*at;
}

Results collect(const std::string& list, const std::string& work) {
  Results out;
  out.text = core::read_file(work + "/text.md", kMaxFile);
  while (out.text.ends_with('\n')) out.text.pop_back();
  out.train_tokens = formats::TokenFile(work + "/train").tokens();
  out.held_out_tokens = formats::TokenFile(work + "/valid").tokens();
  std::istringstream lines(core::read_file(list, kMaxFile));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name, settings;
    if (!(words >> name) || name[0] == '#') continue;
    std::getline(words >> std::ws, settings);
    ++out.planned;
    const std::string folder = work + "/" + name;
    if (is_complete(folder)) out.runs.push_back(read_run(name, settings, folder));
  }
  const std::string full = work + "/storage-full-1", bf16 = work + "/storage-bf16-1";
  if (core::exists(full + "/metrics.jsonl") && core::exists(bf16 + "/metrics.jsonl")) {
    const train::History a = read_history(full), b = read_history(bf16);
    const std::size_t both = std::min(a.steps.size(), b.steps.size());
    out.recomputed_steps = static_cast<std::int64_t>(both);
    for (std::size_t i = 0; i < both; ++i) {
      const train::StepRecord &x = a.steps[i], &y = b.steps[i];
      out.recomputed_equal += x.loss == y.loss && x.mtp_loss == y.mtp_loss && x.grad_norm == y.grad_norm;
    }
  }
  for (const char* name : {"full", "bf16", "fp8", "paper"}) out.storage.push_back(read_storage(name, work));
  out.accumulation = accumulation_from(core::read_json_file(work + "/sums.json"));
  return out;
}

json::value to_json(const std::vector<AccumulationError>& errors) {
  json::array out;
  for (const AccumulationError& e : errors)
    out.push_back({{"distribution", e.distribution},
                   {"rows", e.rows},
                   {"k", e.k},
                   {"bits", e.bits},
                   {"promote", e.promote},
                   {"largest_to_largest", e.largest_to_largest},
                   {"largest_to_rms", e.largest_to_rms},
                   {"rms_to_rms", e.rms_to_rms},
                   {"mean_relative", e.mean_relative},
                   {"largest_relative", e.largest_relative},
                   {"bias", e.bias}});
  return out;
}

json::value to_json(const Results& results) {
  json::array runs, storage;
  for (const Run& r : results.runs)
    runs.push_back({{"name", r.name},
                    {"settings", r.settings},
                    {"isa", r.isa},
                    {"nonfinite_tiles", r.nonfinite_tiles},
                    {"step", json::value_from(r.step)},
                    {"held_out_nats_per_token", json::value_from(r.held_out)},
                    {"training_nats_per_token", json::value_from(r.training)}});
  for (const Storage& s : results.storage)
    storage.push_back({{"name", s.name}, {"taken", s.taken}, {"computed", s.computed}, {"layer", s.layer}});
  return {{"text", results.text},
          {"train_tokens", results.train_tokens},
          {"held_out_tokens", results.held_out_tokens},
          {"planned_runs", results.planned},
          {"runs", runs},
          {"storage_bytes_per_token", storage},
          {"recomputed_steps", results.recomputed_steps},
          {"recomputed_equal", results.recomputed_equal},
          {"accumulation", to_json(results.accumulation)}};
}

Results from_json(const json::value& value, const std::string& where) {
  try {
    Results out;
    out.text = text(value, "text");
    out.train_tokens = value.at("train_tokens").as_int64();
    out.held_out_tokens = value.at("held_out_tokens").as_int64();
    out.planned = value.at("planned_runs").as_int64();
    for (const json::value& r : value.at("runs").as_array())
      out.runs.push_back({text(r, "name"), text(r, "settings"), text(r, "isa"), numbers(r, "step"), numbers(r, "held_out_nats_per_token"),
                          numbers(r, "training_nats_per_token"), number(r, "nonfinite_tiles")});
    for (const json::value& s : value.at("storage_bytes_per_token").as_array())
      out.storage.push_back({text(s, "name"), number(s, "taken"), number(s, "computed"), number(s, "layer")});
    out.recomputed_steps = value.at("recomputed_steps").as_int64();
    out.recomputed_equal = value.at("recomputed_equal").as_int64();
    out.accumulation = accumulation_from(value.at("accumulation"));
    return out;
  } catch (const std::exception& e) {
    throw Error(Exit::bad_input, fmt::format("not the study's results: {}", e.what()), where, "write them anew with studies/fp8/run");
  }
}

}  // namespace finback::studies
