#include "convert/errors.h"

#include "core/error.h"
#include "core/json.h"

#include <boost/json/array.hpp>

#include <algorithm>

namespace finback::convert {
namespace {

namespace json = boost::json;

struct Worst {
  FormatError all;
  const WeightError *rms = nullptr, *max = nullptr;
};

Worst worst_of(const std::vector<WeightError>& errors) {
  Worst w;
  for (const WeightError& e : errors) {
    w.all.add(e.error);
    if (!w.rms || e.error.rms() > w.rms->error.rms()) w.rms = &e;
    if (!w.max || e.error.max() > w.max->error.max()) w.max = &e;
  }
  return w;
}

}  // namespace

std::string errors_to_text(const std::vector<WeightError>& errors) {
  json::array all;
  for (const auto& [name, e] : errors)
    all.push_back(json::array{name, e.squares, e.error_squares, e.largest, e.largest_error, e.blocks, e.original_blocks});
  return core::pretty_json(json::object{{"errors", std::move(all)}});  // doubles with all their digits
}

std::vector<WeightError> errors_from_file(const std::string& path) {
  const json::value v = core::read_json_file(path, {.max_bytes = 1 << 28});
  std::vector<WeightError> errors;
  try {
    for (const json::value& row : v.at("errors").as_array()) {
      const auto number = [&](std::size_t i) { return row.at(i).to_number<double>(); };
      const auto count = [&](std::size_t i) { return row.at(i).to_number<std::int64_t>(); };
      errors.push_back({std::string(row.at(0).as_string()), {number(1), number(2), number(3), number(4), count(5), count(6)}});
    }
  } catch (const std::exception& e) {
    throw core::Error(core::Exit::bad_input, fmt::format("malformed: {}", e.what()), path, "remove the folder and convert again");
  }
  return errors;
}

std::string error_report(const std::vector<WeightError>& errors) {
  const Worst w = worst_of(errors);
  json::object tensors;
  for (const auto& [name, e] : errors)
    tensors[name] = {{"rms", e.rms()}, {"max", e.max()}, {"blocks", e.blocks}, {"original_blocks", e.original_blocks}};
  json::object o = {{"format_version", 1}, {"weights", errors.size()}};
  if (!errors.empty()) {
    o["rms"] = {{"all", w.all.rms()}, {"largest", w.rms->error.rms()}, {"tensor", w.rms->name}};
    o["max"] = {{"largest", w.max->error.max()}, {"tensor", w.max->name}};
  }
  o["tensors"] = std::move(tensors);
  return core::pretty_json(o);
}

std::string error_summary(const std::vector<WeightError>& errors) {
  const Worst w = worst_of(errors);
  if (errors.empty()) return "no weight was quantised";
  if (w.all.blocks == w.all.original_blocks) return fmt::format("all {} blocks have their original scales and codes", w.all.blocks);
  return fmt::format(
      "error {:.3f} % of the weights (RMS; at most {:.3f} %, {}), at most {:.3f} % of a tensor's largest weight ({}); {} of {} blocks have "
      "their original codes",
      100 * w.all.rms(), 100 * w.rms->error.rms(), w.rms->name, 100 * w.max->error.max(), w.max->name, w.all.original_blocks, w.all.blocks);
}

}  // namespace finback::convert
