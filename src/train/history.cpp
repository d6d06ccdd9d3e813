#include "train/history.h"

#include "core/error.h"
#include "core/json.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value_to.hpp>

#include <cmath>
#include <limits>
#include <numeric>

namespace finback::train {
namespace {

namespace json = boost::json;

template <class R>
struct Field {
  std::string_view name;
  double R::*member;
};

constexpr Field<StepRecord> kStepFields[] = {{"loss", &StepRecord::loss},
                                             {"mtp_loss", &StepRecord::mtp_loss},
                                             {"mtp_acceptance", &StepRecord::mtp_acceptance},
                                             {"balance_loss", &StepRecord::balance_loss},
                                             {"grad_norm", &StepRecord::grad_norm},
                                             {"learning_rate", &StepRecord::learning_rate},
                                             {"imbalance", &StepRecord::imbalance},
                                             {"seconds", &StepRecord::seconds},
                                             {"tokens_per_s", &StepRecord::tokens_per_s},
                                             {"share_of_ceiling", &StepRecord::share_of_ceiling},
                                             {"nonfinite_tiles", &StepRecord::nonfinite_tiles}};

constexpr Field<EvaluationRecord> kEvaluationFields[] = {{"val_nats_per_token", &EvaluationRecord::nats_per_token},
                                                         {"val_nats_per_char", &EvaluationRecord::nats_per_char},
                                                         {"val_bits_per_byte", &EvaluationRecord::bits_per_byte},
                                                         {"val_mtp_loss", &EvaluationRecord::mtp_loss},
                                                         {"val_mtp_acceptance", &EvaluationRecord::mtp_acceptance}};

template <class R, std::size_t N>
void append(std::string& out, const R& r, const Field<R> (&fields)[N]) {
  for (const auto& f : fields) {
    const double x = r.*f.member;
    if (std::isfinite(x)) out += fmt::format(", \"{}\": {}", f.name, x);
    else out += fmt::format(", \"{}\": null", f.name);
  }
}

template <class R, std::size_t N>
R read(const json::object& o, std::int64_t step, const Field<R> (&fields)[N]) {
  R r;
  r.step = step;
  for (const auto& f : fields) {
    const json::value* v = o.if_contains(f.name);
    r.*f.member = v && v->is_number() ? v->to_number<double>() : v && v->is_null() ? std::numeric_limits<double>::quiet_NaN() : 0.0;
  }
  return r;
}

template <class R>
void replace_from(std::vector<R>& records, R r) {
  while (!records.empty() && records.back().step >= r.step) records.pop_back();
  records.push_back(std::move(r));
}

}  // namespace

void History::add(const StepRecord& r) { replace_from(steps, r); }
void History::add(const EvaluationRecord& r) { replace_from(evaluations, r); }
void History::add(LoadRecord r) { replace_from(loads, std::move(r)); }

std::string to_line(const StepRecord& r) {
  std::string out = fmt::format("{{\"step\": {}, \"tokens\": {}", r.step, r.tokens);
  append(out, r, kStepFields);
  return out + "}\n";
}

std::string to_line(const EvaluationRecord& r) {
  std::string out = fmt::format("{{\"step\": {}", r.step);
  append(out, r, kEvaluationFields);
  return out + "}\n";
}

std::string to_line(const EventRecord& r) {
  return fmt::format("{{\"step\": {}, \"event\": {}}}\n", r.step, json::serialize(json::value(r.text)));
}

std::string to_line(const LoadRecord& r) {
  return fmt::format("{{\"step\": {}, \"expert_load\": [{}]}}\n", r.step, fmt::join(r.load, ", "));
}

bool History::add_line(std::string_view line, std::int64_t last) {
  json::value value;
  try {
    value = core::parse_json(line, "metrics.jsonl");
  } catch (const core::Error&) {
    return false;
  }
  const json::object* o = value.if_object();
  const json::value* at = o ? o->if_contains("step") : nullptr;
  if (!at || !at->is_int64() || at->get_int64() < 0 || at->get_int64() > last) return false;
  const std::int64_t step = at->get_int64();
  if (o->contains("loss")) {
    StepRecord r = read(*o, step, kStepFields);
    if (const json::value* tokens = o->if_contains("tokens"); tokens && tokens->is_int64()) r.tokens = tokens->get_int64();
    add(r);
  } else if (o->contains("val_nats_per_token")) {
    add(read(*o, step, kEvaluationFields));
  } else if (const json::value* text = o->if_contains("event"); text && text->is_string()) {
    events.push_back({step, std::string(text->get_string())});
  } else if (const json::value* load = o->if_contains("expert_load"); load && load->is_array()) {
    LoadRecord r{step, {}};
    for (const json::value& x : load->get_array()) r.load.push_back(x.is_int64() ? x.get_int64() : 0);
    add(std::move(r));
  } else {
    return false;
  }
  return true;
}

double History::training_seconds() const {
  return std::accumulate(steps.begin(), steps.end(), 0.0, [](double sum, const StepRecord& r) { return sum + r.seconds; });
}

}  // namespace finback::train
