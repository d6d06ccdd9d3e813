#include "train/checkpoint.h"

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "formats/hf_folder.h"
#include "formats/manifest.h"
#include "formats/safetensors.h"

#include <fmt/ranges.h>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>

namespace finback::train {

namespace fs = std::filesystem;
namespace json = boost::json;
using core::Error;
using core::Exit;
using core::Mat;

namespace {

constexpr std::string_view kState = "train_state/state.json";

std::string step_name(std::int64_t step) { return fmt::format("step-{:08}", step); }

// ---- state.json. Doubles are kept as their bits: decimal digits may read back as a neighbour.

std::uint64_t bits(double x) { return std::bit_cast<std::uint64_t>(x); }

json::object to_json(const MovingMoments& m) {
  return {{"count", m.count}, {"mean_bits", bits(m.mean)}, {"variance_bits", bits(m.variance)}};
}

json::object to_json(const Counters& c) {
  return {{"step", c.step},
          {"optimizer_steps", c.optimizer_steps},
          {"sequences", c.sequences},
          {"tokens", c.tokens},
          {"skipped", c.skipped},
          {"rollbacks", c.rollbacks},
          {"bad_in_a_row", c.bad_in_a_row},
          {"loss_moments", to_json(c.guard.loss)},
          {"norm_moments", to_json(c.guard.norm)}};
}

class Fields {
 public:
  Fields(const json::object& object, std::string where) : object_(object), where_(std::move(where)) {}

  std::int64_t count(std::string_view key) const {
    const json::value* v = object_.if_contains(key);
    const std::int64_t* n = v ? v->if_int64() : nullptr;
    if (!n || *n < 0) fail(key);
    return *n;
  }
  double number(std::string_view key) const {
    const json::value* v = object_.if_contains(key);
    if (v && v->is_uint64()) return std::bit_cast<double>(v->get_uint64());
    if (v && v->is_int64()) return std::bit_cast<double>(v->get_int64());
    fail(key);
  }
  std::string text(std::string_view key) const {
    const json::value* v = object_.if_contains(key);
    if (!v || !v->is_string()) fail(key);
    return std::string(v->get_string());
  }
  Fields object(std::string_view key) const { return {raw(key), where_}; }
  const json::object& raw(std::string_view key) const {
    const json::value* v = object_.if_contains(key);
    if (!v || !v->is_object()) fail(key);
    return v->get_object();
  }

 private:
  [[noreturn]] void fail(std::string_view key) const {
    throw Error(Exit::bad_input, fmt::format("field '{}' is missing or malformed", key), where_, "resume from another checkpoint");
  }
  const json::object& object_;
  std::string where_;
};

MovingMoments moments_from(const Fields& f) { return {f.count("count"), f.number("mean_bits"), f.number("variance_bits")}; }

Counters counters_from(const Fields& f) {
  Counters c;
  c.step = f.count("step");
  c.optimizer_steps = f.count("optimizer_steps");
  c.sequences = f.count("sequences");
  c.tokens = f.count("tokens");
  c.skipped = f.count("skipped");
  c.rollbacks = f.count("rollbacks");
  c.bad_in_a_row = f.count("bad_in_a_row");
  c.guard.loss = moments_from(f.object("loss_moments"));
  c.guard.norm = moments_from(f.object("norm_moments"));
  return c;
}

json::object to_json(const Provenance& p) { return {{"build", p.build}, {"isa", p.isa}, {"layout", p.layout}, {"data", p.data}}; }

// ---- tensors

using Entries = std::vector<formats::SafetensorsWriter::Entry>;

// One file of one matrix a parameter, under the parameter's name.
void write_tensors(const std::string& folder, const std::string& name, const model::ParameterList& list, const model::SlabBuffers& buffers,
                   formats::Manifest& manifest) {
  Entries entries;
  for (const model::Parameter& p : list.parameters)
    if (const Mat& slab = buffers.slabs[static_cast<std::size_t>(p.slab)]) entries.push_back({p.name, slab.dtype, p.shape});
  formats::SafetensorsWriter writer(folder + "/" + name, std::move(entries));
  for (const model::Parameter& p : list.parameters) {
    if (!buffers.slabs[static_cast<std::size_t>(p.slab)]) continue;
    const Mat x = buffers.of(p);
    writer.write(x.data, static_cast<std::uint64_t>(x.bytes()));
  }
  formats::FileSum sum = writer.commit();
  sum.name = name;
  manifest.add(std::move(sum));
}

void read_tensors(const std::string& path, const model::ParameterList& list, const model::SlabBuffers& buffers) {
  const formats::SafetensorsFile file(path);
  for (const model::Parameter& p : list.parameters) {
    if (!buffers.slabs[static_cast<std::size_t>(p.slab)]) continue;
    const Mat x = buffers.of(p);
    const formats::TensorInfo* t = file.find(p.name);
    if (!t) throw Error(Exit::bad_input, fmt::format("tensor '{}' is missing", p.name), path, "resume from another checkpoint");
    if (t->shape != p.shape || formats::dtype_of(t->dtype) != x.dtype)
      throw Error(Exit::bad_input,
                  fmt::format("tensor '{}' is {} {}, expected {} [{}]", p.name, t->dtype, t->shape_text(), core::name_of(x.dtype),
                              fmt::join(p.shape, ", ")),
                  path, "resume with the precision and optimizer.moments of the run that wrote it");
    const std::int64_t row_bytes = p.cols * core::size_of(x.dtype);
    file.read(*t, x.data, static_cast<std::uint64_t>(p.first_row * row_bytes), static_cast<std::uint64_t>(p.rows * row_bytes));
  }
}

std::optional<std::int64_t> step_of(std::string_view name) {
  constexpr std::string_view kPrefix = "step-";
  if (name.substr(0, kPrefix.size()) != kPrefix) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  if (error != std::errc{} || end != name.data() + name.size() || name.size() < 8) return std::nullopt;
  return step;
}

// What stands in the way of a rename goes aside first: a kill between the two leaves nothing half removed under a final name.
void remove_checkpoint(const std::string& path) {
  const std::string aside = path + ".removed.tmp";
  core::sys::remove_tree(aside);
  core::sys::rename(path, aside);
  core::sys::remove_tree(aside);
}

void point_latest(const std::string& directory, const std::string& name) {
  const std::string temporary = directory + "/latest.tmp";
  std::error_code ec;
  fs::remove(temporary, ec);
  fs::create_symlink(name, temporary, ec);
  if (ec) throw Error(Exit::io, fmt::format("cannot link: {}", ec.message()), temporary, "check the permissions");
  core::sys::rename(temporary, directory + "/latest");
  core::sys::sync_directory(directory);
}

}  // namespace

// ---- Snapshot

namespace {
void take_snapshot(core::Arena& arena, const model::ParameterList& list, model::Precision precision, core::DType moments, bool with_ema,
                   model::SlabBuffers& master, model::SlabBuffers& m, model::SlabBuffers& v, model::SlabBuffers& ema) {
  master = model::take_slabs(arena, list, precision.accumulator);
  m = model::take_slabs(arena, list, moments, /*trained_only=*/true);
  v = model::take_slabs(arena, list, moments, /*trained_only=*/true);
  if (with_ema) ema = model::take_slabs(arena, list, precision.accumulator);
}
}  // namespace

std::int64_t Snapshot::bytes_needed(const model::ParameterList& list, model::Precision precision, core::DType moments, bool with_ema) {
  core::Arena count = core::Arena::counting();
  model::SlabBuffers master, m, v, ema;
  take_snapshot(count, list, precision, moments, with_ema, master, m, v, ema);
  return count.high_water();
}

Snapshot::Snapshot(const model::ParameterList& list, model::Precision precision, core::DType moments, bool with_ema)
    : arena_("snapshot", bytes_needed(list, precision, moments, with_ema)) {
  take_snapshot(arena_, list, precision, moments, with_ema, master, m, v, ema);
}

void Snapshot::send_share(const TrainState& state, parallel::Member& member) {
  member.world().set_phase("save");
  for (const model::SlabBuffers* share : {&state.master, &state.m, &state.v}) member.collect(*share, nullptr);
  if (!state.ema) return;
  state.ema->wait();
  member.collect(state.ema->values(), nullptr);
}

void Snapshot::copy(const TrainState& state, const kernels::Context& ctx, parallel::Member* member) {
  const auto copy_one = [&](const model::SlabBuffers& from, const model::SlabBuffers& to) {
    if (member) member->collect(from, &to);
    for (std::size_t s = 0; s < from.slabs.size(); ++s) {
      if (!to.slabs[s]) continue;
      if (!std::isfinite(ctx.kernels.sum_squares(ctx, flat(member ? to.slabs[s] : from.slabs[s]))))
        throw Error(Exit::numeric, "a weight or moment is NaN or infinite; no checkpoint is made of it",
                    fmt::format("step {}, {}", state.counters.step, state.list.slabs[s].name),
                    "resume from the last checkpoint with a lower optimizer.lr");
      if (!member) std::memcpy(to.slabs[s].data, from.slabs[s].data, static_cast<std::size_t>(from.slabs[s].bytes()));
    }
  };
  if (member) member->world().set_phase("save");
  copy_one(state.master, master);
  copy_one(state.m, m);
  copy_one(state.v, v);
  if (state.ema) {
    state.ema->wait();
    copy_one(state.ema->values(), ema);
  }
  counters = state.counters;
}

// ---- writing

std::string write_checkpoint(const std::string& directory, const CheckpointContent& content, const Snapshot& snapshot) {
  const std::string name = step_name(snapshot.counters.step), final = directory + "/" + name, folder = final + ".tmp";
  core::sys::remove_tree(folder);
  core::make_directories(folder + "/train_state");
  formats::Manifest manifest;

  const formats::SaveOptions options{
      .dtype = content.weights, .power_of_two_scales = content.power_of_two_scales, .tokenizer = content.tokenizer};
  for (formats::FileSum& sum : formats::save_model(folder, content.config, content.list, snapshot.master, options))
    manifest.add(std::move(sum));
  write_tensors(folder, "train_state/master.safetensors", content.list, snapshot.master, manifest);
  write_tensors(folder, "train_state/exp_avg.safetensors", content.list, snapshot.m, manifest);
  write_tensors(folder, "train_state/exp_avg_sq.safetensors", content.list, snapshot.v, manifest);
  if (!snapshot.ema.slabs.empty()) write_tensors(folder, "train_state/ema.safetensors", content.list, snapshot.ema, manifest);
  const json::object state = {
      {"format_version", kCheckpointFormat},     {"counters", to_json(snapshot.counters)},    {"seed", content.seed},
      {"model", model::to_json(content.config)}, {"provenance", to_json(content.provenance)}, {"run", content.run_toml}};
  core::write_file_atomic(fmt::format("{}/{}", folder, kState), core::pretty_json(state));
  manifest.add_file(folder, std::string(kState));
  manifest.info["step"] = snapshot.counters.step;
  manifest.write(fmt::format("{}/{}", folder, formats::kManifestPath));

  core::sys::sync_directory(folder + "/train_state");
  core::sys::sync_directory(folder);
  if (fs::exists(final)) remove_checkpoint(final);
  core::sys::rename(folder, final);
  core::sys::sync_directory(directory);
  point_latest(directory, name);
  return final;
}

void prune_checkpoints(const std::string& directory, std::int64_t keep) {
  const auto all = list_checkpoints(directory);
  for (std::size_t i = static_cast<std::size_t>(keep); i < all.size(); ++i) remove_checkpoint(all[i].path);
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator(directory, ec)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("step-", 0) == 0 && entry.path().extension() == ".tmp") core::sys::remove_tree(entry.path().string());
  }
}

std::vector<CheckpointEntry> list_checkpoints(const std::string& directory) {
  std::vector<CheckpointEntry> found;
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator(directory, ec))
    if (const auto step = step_of(entry.path().filename().string())) found.push_back({*step, entry.path().string()});
  std::sort(found.begin(), found.end(), [](const CheckpointEntry& a, const CheckpointEntry& b) { return a.step > b.step; });
  return found;
}

// ---- reading

std::vector<std::string> faults_of(const std::string& checkpoint) {
  try {
    return formats::Manifest::read(fmt::format("{}/{}", checkpoint, formats::kManifestPath)).verify(checkpoint);
  } catch (const Error& e) {
    return {e.what()};
  }
}

std::optional<CheckpointEntry> newest_whole(const std::string& directory) {
  const auto all = list_checkpoints(directory);
  for (const CheckpointEntry& c : all) {
    const auto faults = faults_of(c.path);
    if (faults.empty()) return c;
    core::warn("skipping checkpoint {}: {}{}", c.path, faults[0],
               faults.size() > 1 ? fmt::format(" (and {} more)", faults.size() - 1) : "");
  }
  if (all.empty()) return std::nullopt;
  throw Error(Exit::bad_input, "no checkpoint is whole", directory, "restore one from a backup, or start afresh in another output.dir");
}

namespace {

// As it would read back from a file: numbers are compared after the same conversions.
json::object read_back(const json::object& o) { return core::parse_json(json::serialize(o), "").as_object(); }

void compare_models(const json::object& stored, const model::ModelConfig& config, const std::string& where) {
  const json::object now = read_back(model::to_json(config));
  std::vector<std::string> differ;
  for (const auto& [key, value] : now) {
    const json::value* old = stored.if_contains(key);
    if (!old) differ.push_back(fmt::format("{}: not stored", std::string_view(key)));
    else if (*old != value)
      differ.push_back(fmt::format("{}: {} there, {} here", std::string_view(key), json::serialize(*old), json::serialize(value)));
  }
  if (!differ.empty())
    throw Error(Exit::usage, fmt::format("the checkpoint is of another model ({})", fmt::join(differ, "; ")), where,
                "set model.config to that of the run, or choose another output.dir");
}

void compare_provenance(const Fields& stored, const Provenance& now, const ResumeOptions& options, const std::string& where) {
  for (const auto& [name, value] : {std::pair{"build", now.build}, {"isa", now.isa}, {"layout", now.layout}})
    if (stored.text(name) != value && !options.quiet)
      core::warn("the checkpoint was written with {} '{}', this is '{}': going on, not bit for bit", name, stored.text(name), value);
  const json::object& data = stored.raw("data");
  if (data == read_back(now.data)) return;
  if (!options.allow_data_change)
    throw Error(Exit::bad_input,
                fmt::format("the training data changed: {} then, {} now", json::serialize(data), json::serialize(now.data)), where,
                "restore the files, or pass --allow-data-change to go on with the new ones");
  if (!options.quiet) core::warn("the training data changed since the checkpoint; going on with the new files");
}

}  // namespace

std::string read_checkpoint(const std::string& checkpoint, const CheckpointContent& content, const ResumeOptions& options,
                            TrainState& state) {
  const std::string where = fmt::format("{}/{}", checkpoint, kState);
  const json::value root = core::read_json_file(where);
  if (!root.is_object()) throw Error(Exit::bad_input, "not a JSON object", where, "resume from another checkpoint");
  const Fields fields(root.get_object(), where);
  const std::int64_t version = fields.count("format_version");
  if (version < 1 || version > kCheckpointFormat)
    throw Error(Exit::bad_input, fmt::format("format_version {} is not known (1 to {})", version, kCheckpointFormat), where,
                "use the finback that wrote it, or a newer one");
  compare_models(fields.raw("model"), content.config, where);
  compare_provenance(fields.object("provenance"), content.provenance, options, where);
  if (fields.count("seed") != content.seed && !options.quiet)
    core::warn("the checkpoint was written with seed {}, this run has {}", fields.count("seed"), content.seed);
  const std::string folder = checkpoint + "/train_state/";
  if (state.ema) state.ema->wait();
  read_tensors(folder + "master.safetensors", state.owned, state.master);
  read_tensors(folder + "exp_avg.safetensors", state.owned, state.m);
  read_tensors(folder + "exp_avg_sq.safetensors", state.owned, state.v);
  if (state.ema) {
    const bool there = core::exists(folder + "ema.safetensors");
    if (there) read_tensors(folder + "ema.safetensors", state.owned, state.ema->values());
    else state.ema->restart();
    if (!there && !options.quiet) core::warn("the checkpoint holds no moving average of the weights: it begins here");
  }
  state.counters = counters_from(fields.object("counters"));
  return fields.text("run");
}

}  // namespace finback::train
