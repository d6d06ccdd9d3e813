#include "convert/conversion.h"

#include "convert/errors.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "formats/hash.h"

#include <fmt/ranges.h>
#include <boost/json/array.hpp>

#include <algorithm>
#include <filesystem>

namespace finback::convert {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using core::Error;
using core::Exit;
using core::size_text;

constexpr std::string_view kConfig = "config.json", kIndex = "model.safetensors.index.json", kJournal = "plan.json";
constexpr std::uint64_t kMaxSmall = 256 << 20;

std::string join(const std::string& folder, std::string_view name) { return folder + "/" + std::string(name); }

std::string without_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

bool lies_in(const fs::path& path, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first == folder.end();
}

void check_places(const std::string& in, const std::string& out) {
  const fs::path from = fs::weakly_canonical(in), to = fs::weakly_canonical(out);
  const auto refuse = [&](const char* what) { throw Error(Exit::usage, what, out, "choose a folder beside the input"); };
  if (from == to) refuse("the output is the input");
  if (lies_in(to, from)) refuse("the output lies in the input");
  if (lies_in(from, to)) refuse("the input lies in the output");
}

// Files that belong to the folder beside the model itself: the tokenizer's, generation_config.json, and whatever people keep there.
// Not what starts with a point, and not the state of a training run.
std::vector<std::string> companions_of(const formats::ModelFolder& folder) {
  const std::string root = folder.path();
  std::vector<std::string> taken = {join(root, kConfig), join(root, kIndex)}, found, left_out;
  for (const auto& file : folder.files()) taken.push_back(file->path());
  std::error_code ec;
  for (fs::recursive_directory_iterator it(root, ec); !ec && it != fs::recursive_directory_iterator(); it.increment(ec)) {
    const std::string name = it->path().filename().string(), relative = it->path().string().substr(root.size() + 1);
    if (name.front() == '.' || (it.depth() == 0 && (name == "train_state" || name == kConversionFolder))) {
      it.disable_recursion_pending();
      continue;
    }
    std::error_code unreadable;
    if (!it->is_regular_file(unreadable) || std::find(taken.begin(), taken.end(), it->path().string()) != taken.end()) continue;
    (it.depth() == 0 && name.ends_with(".safetensors") ? left_out : found).push_back(relative);
  }
  if (ec) throw Error(Exit::io, fmt::format("cannot list: {}", ec.message()), root, "check the permissions");
  if (!left_out.empty()) core::warn("{}: files of tensors that are no part of the model are left out: {}", root, fmt::join(left_out, ", "));
  std::sort(found.begin(), found.end());
  return found;
}

std::string errors_part(std::size_t shard) { return fmt::format("errors-{:05}.json", shard + 1); }

}  // namespace

Conversion::Conversion(const Options& options) : options_(options) {
  options_.in = without_slash(options.in);
  options_.out = without_slash(options.out);
  folder_ = std::make_unique<formats::ModelFolder>(options_.in);
  check_places(options_.in, options_.out);
  config_ = model::read_config(options_.in);
  list_ = model::list_parameters(config_);
  config_json_ = core::read_json_file(join(options_.in, kConfig), {.max_bytes = 4 << 20}).as_object();
  std::vector<Weight> weights = weights_of(*folder_, config_, list_, config_json_, options_.target);
  from_fp8_ = std::any_of(weights.begin(), weights.end(), [](const Weight& w) { return w.from == core::DType::e4m3; });
  if (!from_fp8_ && core::exists(join(options_.in, kRecordName))) record_ = std::make_unique<Record>(join(options_.in, kRecordName));
  source_ = std::make_unique<FolderSource>(*folder_);
  config_text_ = config_text(config_json_, options_.target, record_.get());
  copied_ = companions_of(*folder_);

  if (record_ && options_.target == Target::fp8) {
    if (auto plan = plan_like(weights, record_->shards(), record_->index())) {
      plan_ = std::move(*plan);
      return;
    }
    core::warn("{} is of another model than the folder's: the shards are laid out anew", join(options_.in, kRecordName));
  }
  plan_ = make_plan(std::move(weights), options_.shard_bytes);
}

std::string Conversion::temporary(std::string_view name) const {
  const std::string folder = options_.out + ".tmp";
  return name.empty() ? folder : join(folder, name);
}

bool Conversion::quantises() const {
  return std::any_of(plan_.weights.begin(), plan_.weights.end(),
                     [](const Weight& w) { return w.to == core::DType::e4m3 && w.from != core::DType::e4m3; });
}

std::string Conversion::describe() const {
  std::uint64_t in = 0;
  for (const auto& file : folder_->files()) in += file->size();
  std::string text =
      fmt::format("{}: {} files, {}\n{}: {} in {} file{}, {}\n\n", options_.in, folder_->files().size(), size_text(in), options_.out,
                  name_of(options_.target), plan_.shards.size(), plan_.shards.size() == 1 ? "" : "s", size_text(plan_.bytes()));
  for (const auto& [type, sum] : plan_.sums())
    text += fmt::format("{:<10} {:>8} tensors  {:>10}\n", type, sum.tensors, size_text(sum.bytes));
  if (from_fp8_ && options_.target != Target::fp8)
    text += fmt::format("{:<10} the original scales, {}, in {}\n", "kept", size_text(record_bytes(*folder_)), kRecordName);
  if (record_ && options_.target == Target::fp8)
    text += fmt::format("{:<10} the original scales and shards, from {}\n", "taken", kRecordName);
  if (!copied_.empty()) text += fmt::format("{:<10} {}\n", "copied", fmt::join(copied_, ", "));
  return text;
}

// All that the bytes to be written depend on: what the input holds, and how it is laid out.
std::string Conversion::journal() const {
  formats::Xxh3 layout;
  for (const Shard& s : plan_.shards) layout.update(s.head.text.data(), s.head.text.size());
  layout.update(config_text_.data(), config_text_.size());
  json::array files;
  const auto add = [&](const std::string& path) {
    std::error_code ec;
    const std::int64_t time = fs::last_write_time(path, ec).time_since_epoch().count();
    files.push_back({path.substr(options_.in.size() + 1), core::file_size(path), time});
  };
  for (const auto& file : folder_->files()) add(file->path());
  for (const std::string& name : copied_) add(join(options_.in, name));
  if (record_) add(join(options_.in, kRecordName));
  return core::pretty_json(
      json::object{{"format_version", 1}, {"dtype", name_of(options_.target)}, {"layout", layout.digest128()}, {"in", std::move(files)}});
}

// Whether a folder is what this conversion makes, as far as headers and sizes tell.
bool Conversion::is_whole(const std::string& folder) const {
  if (!core::exists(join(folder, kConfig)) || core::read_file(join(folder, kConfig), kMaxSmall) != config_text_) return false;
  return std::all_of(plan_.shards.begin(), plan_.shards.end(), [&](const Shard& s) {
    const std::string path = join(folder, s.name);
    return core::exists(path) && core::file_size(path) == s.head.file_bytes &&
           formats::SafetensorsFile(path).head_text() == std::string_view(s.head.text).substr(sizeof(std::uint64_t));
  });
}

Conversion::State Conversion::prepare() const {
  const bool started = core::exists(temporary());
  if (core::exists(options_.out) && !(fs::is_directory(options_.out) && fs::is_empty(options_.out))) {
    if (options_.resume && !started && is_whole(options_.out)) return State::done;
    throw Error(Exit::usage, "the output is there already", options_.out, "choose another folder, or remove it");
  }
  if (started && !options_.resume)
    throw Error(Exit::usage, "a conversion that was stopped half-way lies there", temporary(), "go on with --resume, or remove it");
  // plan.json goes last, before the rename; what lies there without it was either whole or not begun.
  if (started && core::exists(temporary(kJournal))) {
    if (core::read_file(temporary(kJournal), kMaxSmall) != journal())
      throw Error(Exit::usage, "the conversion that was stopped there is another one: the input, its files' times or the options changed",
                  temporary(), "remove it, and convert again");
    for (auto it = fs::recursive_directory_iterator(temporary()); it != fs::recursive_directory_iterator();)
      if (const auto entry = *it++; entry.path().filename().string().find(".tmp-") != std::string::npos) fs::remove(entry.path());
    return State::going_on;
  }
  if (started && is_whole(temporary())) return State::written;
  core::sys::remove_tree(temporary());
  core::make_directories(temporary());
  core::write_file_atomic(temporary(kJournal), journal());
  return State::fresh;
}

void Conversion::check_space() const {
  std::uint64_t needed = plan_.bytes() + (from_fp8_ ? record_bytes(*folder_) : 0);
  for (const std::string& name : copied_) needed += core::file_size(join(options_.in, name));
  for (const Shard& s : plan_.shards)
    if (core::exists(temporary(s.name))) needed -= s.head.file_bytes;
  core::require_space(temporary(), needed);
}

void Conversion::write_shards(core::Team& team) {
  ShardWriter writer(plan_, *source_, options_.target == Target::fp8 ? record_.get() : nullptr, team);
  core::Progress progress;
  const double start = core::seconds_now();
  std::uint64_t moved = 0, moved_before = 0, written = 0;
  for (std::size_t i = 0; i < plan_.shards.size(); ++i) {
    const Shard& s = plan_.shards[i];
    written += s.head.file_bytes;
    if (core::exists(temporary(s.name))) continue;
    core::make_directories(fs::path(temporary(s.name)).parent_path().string());
    const auto show = [&](double share, std::uint64_t bytes) {
      moved = moved_before + bytes;
      const double seconds = core::seconds_now() - start;
      if (seconds < 1) return;  // nobody waits yet
      const double done = static_cast<double>(written) - (1 - share) * static_cast<double>(s.head.file_bytes);
      progress.update(fmt::format("shard {} of {}, {:.1f} %, {:.2f} GB/s read and written", i + 1, plan_.shards.size(),
                                  100 * done / static_cast<double>(plan_.bytes()), static_cast<double>(moved) / seconds * 1e-9));
    };
    const auto keep = [&](const std::vector<WeightError>& errors) {
      if (quantises()) core::write_file_atomic(temporary(errors_part(i)), errors_to_text(errors));
    };
    writer.write(temporary(s.name), s, {show, keep});
    moved_before = moved;
  }
  progress.finish();
}

void Conversion::write_records() {
  const bool keeps = options_.target != Target::fp8 && (from_fp8_ || record_);
  if (keeps || quantises()) core::make_directories(temporary(kConversionFolder));
  if (keeps && !core::exists(temporary(kRecordName))) {
    if (from_fp8_) write_record(temporary(kRecordName), *folder_, core::read_file(join(options_.in, kConfig), kMaxSmall));
    else core::copy_file_atomic(join(options_.in, kRecordName), temporary(kRecordName));
  }
  if (!quantises() || core::exists(temporary(kErrorsName))) return;
  std::vector<WeightError> errors;
  for (std::size_t i = 0; i < plan_.shards.size(); ++i)
    for (WeightError& e : errors_from_file(temporary(errors_part(i)))) errors.push_back(std::move(e));
  core::write_file_atomic(temporary(kErrorsName), error_report(errors));
  summary_ = "; " + error_summary(errors);
}

void Conversion::write(core::Team& team) {
  write_shards(team);
  for (const std::string& name : copied_) {
    if (core::exists(temporary(name))) continue;
    core::make_directories(fs::path(temporary(name)).parent_path().string());
    core::copy_file_atomic(join(options_.in, name), temporary(name));
  }
  write_records();
  if (!plan_.index.empty()) core::write_file_atomic(temporary(kIndex), plan_.index);
  core::write_file_atomic(temporary(kConfig), config_text_);
  for (std::size_t i = 0; i < plan_.shards.size(); ++i) core::sys::remove_tree(temporary(errors_part(i)));
  core::sys::remove_tree(temporary(kJournal));
}

std::string Conversion::run(core::Team& team) {
  const double start = core::seconds_now();
  const State state = prepare();
  if (state == State::done) return fmt::format("{}: there already, whole", options_.out);
  if (state != State::written) {
    try {
      check_space();
      write(team);
    } catch (const Error& e) {
      if (e.code() == Exit::bad_input) core::sys::remove_tree(temporary());
      else core::inform("{}: what is whole so far stays there; --resume goes on", temporary());
      throw;
    }
  }
  core::sys::sync_directory(temporary());
  core::sys::rename(temporary(), options_.out);
  const std::string parent = fs::path(options_.out).parent_path().string();
  core::sys::sync_directory(parent.empty() ? "." : parent);
  return fmt::format("{}: {} in {} file{}, {}, {:.1f} s{}", options_.out, name_of(options_.target), plan_.shards.size(),
                     plan_.shards.size() == 1 ? "" : "s", size_text(plan_.bytes()), core::seconds_now() - start, summary_);
}

}  // namespace finback::convert
