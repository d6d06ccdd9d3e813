#include "train/run_config.h"

#include "core/error.h"
#include "core/file.h"
#include "data/synthetic.h"
#include "train/recipe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <string_view>
#include <variant>

#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

namespace finback::train {
namespace {

using core::Error;
using core::Exit;

constexpr std::uint64_t kMaxFileBytes = 1 << 20;
constexpr std::int64_t kMany = std::int64_t{1} << 40;

using Value = std::variant<std::int64_t*, double*, bool*, std::string*, std::vector<std::string>*, std::vector<double>*>;

struct Key {
  std::string_view section, name;
  std::function<Value(RunConfig&)> in;
  double low, high;          // numbers (of a list: each of them)
  std::string_view choices;  // strings: "a|b", or empty for any text
  bool required;
  std::string_view meaning;

  std::string full() const { return fmt::format("{}.{}", section, name); }
};

#define AT(member) [](RunConfig& c) -> Value { return &c.member; }

Key number(std::string_view s, std::string_view n, std::function<Value(RunConfig&)> in, double low, double high, std::string_view meaning) {
  return {s, n, std::move(in), low, high, "", false, meaning};
}
Key text(std::string_view s, std::string_view n, std::function<Value(RunConfig&)> in, std::string_view choices, std::string_view meaning) {
  return {s, n, std::move(in), 0, 0, choices, false, meaning};
}
Key needed(std::string_view s, std::string_view n, std::function<Value(RunConfig&)> in, std::string_view meaning) {
  return {s, n, std::move(in), 0, 0, "", true, meaning};
}

const std::vector<Key>& keys() {
  constexpr double many = static_cast<double>(kMany);
  static const std::vector<Key> table = {
      needed("model", "config", AT(model.config), "config.json of the model, or a folder that holds one"),

      needed("data", "train", AT(data.train), "token files (data pack) to train on"),
      number("data", "weights", AT(data.weights), 0, 1e12, "share of each training file; empty: by its tokens"),
      text("data", "valid", AT(data.valid), "", "token file for the held-out loss; empty: none"),
      text("data", "tokenizer", AT(data.tokenizer), "", "tokenizer.json, or the folder that holds it; synthetic tokens have none"),
      number("data", "seq_len", AT(data.seq_len), 1, 1 << 24, "tokens a sequence"),
      number("data", "fim_rate", AT(data.fim_rate), 0, 1, "share of documents rearranged for fill-in-the-middle"),
      number("data", "token_split_rate", AT(data.token_split_rate), 0, 1, "share of joined punctuation tokens that are split"),

      number("train", "steps", AT(train.steps), 1, many, "optimiser steps"),
      number("train", "seed", AT(train.seed), 0, 9.2e18, "of initial values, data order and all else that is drawn"),
      number("train", "global_batch", AT(train.global_batch), 1, 1 << 24, "sequences a step"),
      number("train", "micro_batch", AT(train.micro_batch), 1, 1 << 16, "sequences run at once; divides every step's batch"),
      number("train", "ramp_from", AT(train.ramp_from), 0, 1 << 24, "sequences of the first step; 0: global_batch"),
      number("train", "ramp_steps", AT(train.ramp_steps), 0, many, "steps over which the batch grows to global_batch"),
      text("train", "precision", AT(train.precision), "bf16|fp8|fp32|fp64",
           "of weights and activations; fp8: linear layers multiply e4m3 codes; fp64 on the reference backend only"),
      text("train", "activation_storage", AT(train.activation_storage), "bf16|full|fp8|paper",
           "kept for backward; all but full compute norms and SwiGLU again, fp8 and paper keep codes"),
      number("train", "threads", AT(train.threads), 0, 4096, "0: every core"),

      number("fp8", "accumulate_bits", AT(fp8.accumulate_bits), 0, 14,
             "of sums: 0: FP32; 14: as a tensor core of the H800, on the reference backend only"),
      text("fp8", "promote", AT(fp8.promote), "", "with accumulate_bits: pass partial sums to FP32 at every tile of 128"),
      text("fp8", "gradient_format", AT(fp8.gradient_format), "e4m3|e5m2", "of the gradients of activations"),
      text("fp8", "gradient_tile", AT(fp8.gradient_tile), "1x128|128x128", "that shares a scale, in the gradients of activations"),
      text("fp8", "power_of_two_scales", AT(fp8.power_of_two_scales), "", "all scales; otherwise those of what travels to experts"),

      number("optimizer", "lr", AT(optimizer.lr), 0, 1e6, "highest learning rate"),
      number("optimizer", "min_lr", AT(optimizer.min_lr), 0, 1e6, "learning rate after the decay"),
      number("optimizer", "warmup_steps", AT(optimizer.warmup_steps), 0, many, "linear from 0 to lr"),
      number("optimizer", "constant_steps", AT(optimizer.constant_steps), 0, many, "at lr, after the warm-up"),
      number("optimizer", "decay_steps", AT(optimizer.decay_steps), 0, many, "from lr to min_lr; 0: all that remains"),
      number("optimizer", "last_steps", AT(optimizer.last_steps), 0, many, "the run's last steps, at last_lr"),
      number("optimizer", "last_lr", AT(optimizer.last_lr), 0, 1e6, "learning rate of the last steps"),
      text("optimizer", "schedule", AT(optimizer.schedule), "cosine|linear|constant", "shape of the decay; constant: none"),
      number("optimizer", "beta1", AT(optimizer.beta1), 0, 0.999999, "AdamW"),
      number("optimizer", "beta2", AT(optimizer.beta2), 0, 0.9999999, "AdamW"),
      number("optimizer", "eps", AT(optimizer.eps), 1e-30, 1, "AdamW"),
      number("optimizer", "weight_decay", AT(optimizer.weight_decay), 0, 100, "decoupled; matrices only"),
      number("optimizer", "grad_clip", AT(optimizer.grad_clip), 0, 1e9, "largest gradient norm; 0: no clipping"),
      number("optimizer", "ema_decay", AT(optimizer.ema_decay), 0, 1, "of a moving average of the weights, kept in checkpoints; 0: none"),
      text("optimizer", "moments", AT(optimizer.moments), "bf16|fp32", "type of the two moments"),

      number("moe", "bias_update_speed", AT(moe.bias_update_speed), 0, 1, "of the gate's bias, each step"),
      number("moe", "bias_freeze_step", AT(moe.bias_freeze_step), -1, many, "the bias rests from this step on; -1: never"),
      number("moe", "sequence_balance_alpha", AT(moe.sequence_balance_alpha), 0, 100, "weight of the sequence-wise balance loss"),

      number("moe", "max_imbalance", AT(moe.max_imbalance), 1, 1e6,
             "room for slots at spread experts, times what even loads take; beyond it memory is added as needed"),

      number("mtp", "loss_weight", AT(mtp.loss_weight), 0, 100, "of the MTP losses; 0: the modules are not trained"),
      number("mtp", "loss_weight_late", AT(mtp.loss_weight_late), 0, 100, "the same from late_step on"),
      number("mtp", "late_step", AT(mtp.late_step), -1, many, "-1: never"),

      number("parallel", "pp", AT(parallel.pp), 1, 1 << 12, "ranks of the pipeline, each with a stage of the model, or two"),
      number("parallel", "dp", AT(parallel.dp), 1, 1 << 16, "data-parallel ranks of each: --ranks starts pp × dp, or mpirun"),
      number("parallel", "ep", AT(parallel.ep), 1, 1 << 16, "ranks over which a layer's experts are spread; divides dp"),
      text("parallel", "schedule", AT(parallel.schedule), "1f1b|zb1p|dualpipe|dualpipev", "of the pipeline"),

      number("checkpoint", "every", AT(checkpoint.every), 0, many, "steps; 0: only at the end"),
      number("checkpoint", "keep", AT(checkpoint.keep), 1, 1 << 20, "newest checkpoints that stay"),
      number("checkpoint", "tries", AT(checkpoint.tries), 1, 1000, "failed saves in a row before the run stops"),
      text("checkpoint", "dtype", AT(checkpoint.dtype), "auto|fp8|bf16|fp32",
           "of the Hugging Face weights; auto: as train.precision; fp8: E4M3 and scales as published"),

      number("eval", "every", AT(eval.every), 0, many, "steps; 0: only at the end"),
      number("eval", "tokens", AT(eval.tokens), 0, many, "of the held-out file; 0: all"),

      number("guard", "recheck_every", AT(guard.recheck_every), 0, many,
             "steps: every so many one is computed twice and its bits compared; 0: never"),
      number("guard", "max_bad_steps", AT(guard.max_bad_steps), 1, 1 << 20, "NaN or infinite steps in a row before the run stops"),
      number("guard", "spike_zscore", AT(guard.spike_zscore), 0, 1e6, "loss or norm this many deviations above its mean; 0: off"),
      number("guard", "spike_window", AT(guard.spike_window), 10, 1 << 20, "steps over which mean and deviation are taken"),
      text("guard", "spike_action", AT(guard.spike_action), "log|skip|rollback", "what a spike leads to"),
      number("guard", "max_rollbacks", AT(guard.max_rollbacks), 0, 1000, "before the run stops"),

      needed("output", "dir", AT(output.dir), "folder of the run: checkpoints, metrics, report"),
      text("output", "tensorboard", AT(output.tensorboard), "", "write TensorBoard events"),
      number("output", "report_seconds", AT(output.report_seconds), 1, 1e6, "between two writings of report.html"),
  };
  return table;
}

#undef AT

// ---- names

// 0 (equal) to 1 (nothing in common): insertions and deletions that turn a into b, over both lengths.
double unlikeness(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t kept = a[i - 1] == b[j - 1] ? diagonal : diagonal + 2;
      diagonal = row[j];
      row[j] = std::min({kept, row[j] + 1, row[j - 1] + 1});
    }
  }
  return static_cast<double>(row.back()) / static_cast<double>(a.size() + b.size() + 1);
}

// The key whose name is nearest, by its own name first and its section then. Long names are cut: they come from outside.
std::string nearest(std::string_view section, std::string_view name) {
  constexpr std::size_t kLongest = 64;
  section = section.substr(0, kLongest);
  name = name.substr(0, kLongest);
  const auto distance = [&](const Key& k) { return 2 * unlikeness(name, k.name) + unlikeness(section, k.section); };
  const auto& all = keys();
  return std::min_element(all.begin(), all.end(), [&](const Key& a, const Key& b) { return distance(a) < distance(b); })->full();
}

bool is_section(std::string_view name) {
  return std::any_of(keys().begin(), keys().end(), [&](const Key& k) { return k.section == name; });
}

[[noreturn]] void unknown(std::string_view section, std::string_view name, const std::string& where) {
  throw Error(Exit::usage, fmt::format("unknown key '{}{}{}'", section, section.empty() ? "" : ".", name), where,
              fmt::format("did you mean '{}'?", nearest(section, name)));
}

// ---- values

std::string allowed(const Key& k) {
  if (!k.choices.empty()) return fmt::format("one of {}", k.choices);
  return fmt::format("{} to {}", k.low, k.high);
}

struct Typed {
  std::string_view operator()(const std::int64_t*) const { return "a whole number"; }
  std::string_view operator()(const double*) const { return "a number"; }
  std::string_view operator()(const bool*) const { return "true or false"; }
  std::string_view operator()(const std::string*) const { return "a string"; }
  std::string_view operator()(const std::vector<std::string>*) const { return "a list of strings"; }
  std::string_view operator()(const std::vector<double>*) const { return "a list of numbers"; }
};

template <class T>
std::optional<T> value_of(const toml::node& node) {
  if constexpr (std::is_same_v<T, double>) {
    if (node.is_integer() || node.is_floating_point()) return node.value<double>();
    return std::nullopt;
  } else if constexpr (std::is_same_v<T, std::int64_t>) {
    // 1e9 is a float in TOML; a whole one is what its writer meant.
    if (const auto* f = node.as_floating_point()) {
      const double x = f->get();
      if (std::floor(x) == x && std::abs(x) < 9e15) return static_cast<std::int64_t>(x);
      return std::nullopt;
    }
    return node.is_integer() ? node.value<std::int64_t>() : std::nullopt;
  } else {
    return node.value_exact<T>();
  }
}

template <class T>
bool store(const toml::node& node, T& out) {
  const auto v = value_of<T>(node);
  if (v) out = *v;
  return v.has_value();
}

template <class T>
bool store(const toml::node& node, std::vector<T>& out) {
  out.clear();
  if (const auto one = value_of<T>(node)) {  // a single value is a list of one
    out.push_back(*one);
    return true;
  }
  const toml::array* list = node.as_array();
  if (!list) return false;
  for (const toml::node& item : *list) {
    const auto v = value_of<T>(item);
    if (!v) return false;
    out.push_back(*v);
  }
  return true;
}

struct InRange {
  const Key& key;
  bool operator()(const std::int64_t* v) const { return static_cast<double>(*v) >= key.low && static_cast<double>(*v) <= key.high; }
  bool operator()(const double* v) const { return *v >= key.low && *v <= key.high; }  // false for NaN
  bool operator()(const bool*) const { return true; }
  bool operator()(const std::string* v) const {
    if (key.choices.empty()) return v->find('\0') == std::string::npos;
    return fmt::format("|{}|", key.choices).find(fmt::format("|{}|", *v)) != std::string::npos && v->find('|') == std::string::npos;
  }
  bool operator()(const std::vector<std::string>* v) const {
    return std::none_of(v->begin(), v->end(), [](const std::string& s) { return s.empty() || s.find('\0') != std::string::npos; });
  }
  bool operator()(const std::vector<double>* v) const {
    return std::all_of(v->begin(), v->end(), [&](double x) { return (*this)(&x); });
  }
};

void assign(const toml::node& node, const Key& key, const std::string& where, RunConfig& config) {
  const Value slot = key.in(config);
  if (!std::visit([&](auto* p) { return store(node, *p); }, slot))
    throw Error(Exit::usage, fmt::format("'{}' has the wrong type", key.full()), where, fmt::format("give {}", std::visit(Typed{}, slot)));
  if (!std::visit(InRange{key}, slot))
    throw Error(Exit::usage, fmt::format("'{}' is out of range", key.full()), where, fmt::format("give {}", allowed(key)));
}

std::string at_line(const std::string& where, const toml::source_region& source) { return fmt::format("{}:{}", where, source.begin.line); }

void read_table(const toml::table& root, const std::function<std::string(const toml::node&)>& where, RunConfig& config,
                std::vector<std::string>& seen) {
  for (const auto& [section, node] : root) {
    const toml::table* table = node.as_table();
    if (!table) unknown("", section.str(), where(node));
    for (const auto& [name, value] : *table) {
      const auto key = std::find_if(keys().begin(), keys().end(),
                                    [&, &s = section, &n = name](const Key& k) { return k.section == s.str() && k.name == n.str(); });
      if (key == keys().end()) unknown(section.str(), name.str(), where(value));
      assign(value, *key, where(value), config);
      seen.push_back(key->full());
    }
    if (table->empty() && !is_section(section.str())) unknown(section.str(), "", where(node));
  }
}

void apply_override(const std::string& text, RunConfig& config, std::vector<std::string>& seen) {
  const std::string where = fmt::format("--set {}", text);
  const auto equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    throw Error(Exit::usage, "not of the form section.key=value", where, "write, for example, --set optimizer.lr=1e-3");
  const std::string path = text.substr(0, equals), value = text.substr(equals + 1);
  const auto dot = path.find('.');
  const std::string section = dot == std::string::npos ? "" : path.substr(0, dot),
                    name = dot == std::string::npos ? path : path.substr(dot + 1);
  const auto key = std::find_if(keys().begin(), keys().end(), [&](const Key& k) { return k.section == section && k.name == name; });
  if (key == keys().end()) unknown(section, name, where);
  toml::table parsed;
  try {
    parsed = toml::parse(fmt::format("value = {}\n", value));
  } catch (const toml::parse_error&) {
    parsed.clear();
  }
  if (parsed.size() != 1) {  // not TOML: the text itself, so that paths need no quotes
    parsed.clear();
    parsed.insert("value", value);
  }
  assign(*parsed.get("value"), *key, where, config);
  seen.push_back(key->full());
}

void require(bool fine, std::string_view what, const std::string& where, std::string_view remedy) {
  if (!fine) throw Error(Exit::usage, what, where, remedy);
}

// Precision, activation store and the switches of [fp8].
void check_fp8(const RunConfig& c, const std::string& where) {
  const auto& f = c.fp8;
  require(f == RunConfig::Fp8Table{} || c.train.precision == "fp8",
          fmt::format("[fp8] is set and train.precision is {}", c.train.precision), where,
          "set train.precision to fp8, or leave [fp8] out");
  require(f.accumulate_bits == 0 || f.accumulate_bits == 14, fmt::format("fp8.accumulate_bits is {}", f.accumulate_bits), where,
          "give 0 (FP32) or 14 (a tensor core of the H800)");
  require(f.promote || f.accumulate_bits > 0, "'fp8.promote' is false and sums are FP32 already", where,
          "set fp8.accumulate_bits to 14, or fp8.promote to true");
  model::check_storage(precision_of(c), model::activation_storage_of(c.train.activation_storage));
}

// What no single key can tell.
void check_together(const RunConfig& c, const std::string& where, const std::vector<std::string>& seen) {
  for (const Key& k : keys())
    require(!k.required || std::find(seen.begin(), seen.end(), k.full()) != seen.end(), fmt::format("'{}' is missing", k.full()), where,
            fmt::format("set it: {}", k.meaning));
  require(!c.model.config.empty(), "'model.config' is empty", where, "name a config.json");
  require(!c.output.dir.empty(), "'output.dir' is empty", where, "name the run's folder");
  require(!c.data.train.empty(), "'data.train' is empty", where, "name at least one token file");
  require(!c.data.tokenizer.empty() || c.data.train == std::vector<std::string>{data::kSynthetic}, "'data.tokenizer' is missing", where,
          "set it: tokenizer.json, or the folder that holds it");
  require(c.data.tokenizer.empty() || c.data.train != std::vector<std::string>{data::kSynthetic}, "a tokenizer for synthetic tokens", where,
          "leave data.tokenizer out");
  require(c.data.weights.empty() || c.data.weights.size() == c.data.train.size(), "'data.weights' and 'data.train' differ in length", where,
          "give one weight a file, or none");
  require(c.data.weights.empty() || std::accumulate(c.data.weights.begin(), c.data.weights.end(), 0.0) > 0, "'data.weights' are all zero",
          where, "give at least one file a weight above 0");
  const auto& t = c.train;
  const std::int64_t least = least_batch(c);
  std::string parts = fmt::format("micro_batch {}", t.micro_batch);
  if (c.parallel.dp > 1) parts += fmt::format(" × dp {}", c.parallel.dp);
  if (c.parallel.schedule == "dualpipe") parts += " × 2 directions";
  require(t.global_batch % least == 0, fmt::format("{} does not divide global_batch {}", parts, t.global_batch), where,
          "choose another train.micro_batch or train.global_batch");
  require(t.ramp_from % least == 0 && t.ramp_from <= t.global_batch,
          fmt::format("ramp_from {} is no multiple of {} up to global_batch {}", t.ramp_from, parts, t.global_batch), where,
          "choose such a multiple for train.ramp_from, or 0");
  check_fp8(c, where);
  const auto& o = c.optimizer;
  require(o.min_lr <= o.lr, fmt::format("min_lr {} is above lr {}", o.min_lr, o.lr), where, "lower optimizer.min_lr");
  require(o.constant_steps + o.decay_steps + o.last_steps <= t.steps,
          fmt::format("constant_steps + decay_steps + last_steps are more than train.steps {}", t.steps), where,
          "shorten them or train for longer (a run shorter than its warm-up is fine)");
}

// ---- printing

struct Printed {
  std::string operator()(const std::int64_t* v) const { return fmt::format("{}", *v); }
  std::string operator()(const double* v) const {
    const std::string s = fmt::format("{}", *v);
    return s.find_first_of(".e") == std::string::npos ? s + ".0" : s;  // a TOML float
  }
  std::string operator()(const bool* v) const { return *v ? "true" : "false"; }
  std::string operator()(const std::string* v) const {
    std::string out = "\"";
    for (const char ch : *v) {
      if (ch == '"' || ch == '\\') out += '\\', out += ch;
      else if (static_cast<unsigned char>(ch) < 0x20 || ch == 0x7f) out += fmt::format("\\u{:04x}", static_cast<unsigned char>(ch));
      else out += ch;
    }
    return out + '"';
  }
  template <class T>
  std::string operator()(const std::vector<T>* v) const {
    std::vector<std::string> items;
    for (const T& item : *v) items.push_back((*this)(&item));
    return fmt::format("[{}]", fmt::join(items, ", "));
  }
};

std::string shown(const Key& k, const RunConfig& c) { return std::visit(Printed{}, k.in(const_cast<RunConfig&>(c))); }

}  // namespace

core::DType moments_of(const RunConfig& c) { return c.optimizer.moments == "bf16" ? core::DType::bf16 : core::DType::f32; }

model::Precision precision_of(const RunConfig& c) {
  model::Precision p = model::precision_of(c.train.precision);
  if (!p.fp8) return p;
  p.fp8->accumulation = {static_cast<int>(c.fp8.accumulate_bits), c.fp8.promote};
  p.fp8->gradient_format = c.fp8.gradient_format == "e5m2" ? core::DType::e5m2 : core::DType::e4m3;
  p.fp8->gradient_blocks = c.fp8.gradient_tile == "128x128";
  p.fp8->power_of_two_scales = c.fp8.power_of_two_scales;
  return p;
}

RunConfig parse_run_config(std::string_view source, const std::string& where, std::span<const std::string> overrides) {
  RunConfig config;
  std::vector<std::string> seen;
  try {
    const toml::table root = toml::parse(source);
    read_table(
        root, [&](const toml::node& n) { return at_line(where, n.source()); }, config, seen);
  } catch (const toml::parse_error& e) {
    throw Error(Exit::usage, fmt::format("not TOML: {}", e.description()), at_line(where, e.source()), "correct that line");
  }
  for (const std::string& text : overrides) apply_override(text, config, seen);
  check_together(config, where, seen);
  return config;
}

RunConfig read_run_config(const std::string& path, std::span<const std::string> overrides) {
  return parse_run_config(core::read_file(path, kMaxFileBytes), path, overrides);
}

std::string describe(const RunConfig& config) {
  const RunConfig defaults;
  std::string out;
  std::string_view section;
  for (const Key& k : keys()) {
    if (k.section != section) out += fmt::format("[{}]\n", section = k.section);
    const std::string range = k.low < k.high || !k.choices.empty() ? fmt::format("; {}", allowed(k)) : "";
    const std::string standard = k.required ? "required" : fmt::format("default {}", shown(k, defaults));
    out += fmt::format("{:<24} = {:<20} # {} ({}{})\n", k.name, shown(k, config), k.meaning, standard, range);
  }
  return out;
}

std::string to_toml(const RunConfig& config) {
  std::string out;
  std::string_view section;
  for (const Key& k : keys()) {
    if (k.section != section) out += fmt::format("{}[{}]\n", section.empty() ? "" : "\n", k.section);
    section = k.section;
    out += fmt::format("{} = {}\n", k.name, shown(k, config));
  }
  return out;
}

std::vector<std::string> differences(const RunConfig& before, const RunConfig& now) {
  std::vector<std::string> out;
  for (const Key& k : keys())
    if (shown(k, before) != shown(k, now)) out.push_back(fmt::format("{}: {}, now {}", k.full(), shown(k, before), shown(k, now)));
  return out;
}

std::vector<std::string> run_config_keys() {
  std::vector<std::string> names;
  for (const Key& k : keys()) names.push_back(k.full());
  return names;
}

}  // namespace finback::train
