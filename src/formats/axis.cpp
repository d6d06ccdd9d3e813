#include "formats/axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace finback::formats {
namespace {

// The round number nearest below or at `rough` when multiplied up: 1, 2 or 5 times a power of ten.
double round_step(double rough) {
  const double power = std::pow(10, std::floor(std::log10(rough)));
  const double mantissa = rough / power;
  return (mantissa <= 1.001 ? 1 : mantissa <= 2.001 ? 2 : mantissa <= 5.001 ? 5 : 10) * power;
}

std::string without_zeros(std::string text) {
  if (text.find('.') == std::string::npos) return text;
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

}  // namespace

namespace {

struct Unit {
  double from, value;  // used from this size on
  const char* letter;
};
constexpr Unit kUnits[] = {{1e12, 1e12, "T"}, {1e9, 1e9, "B"}, {1e6, 1e6, "M"}, {1e4, 1e3, "k"}};

const Unit* unit_of(double size) {
  for (const Unit& u : kUnits)
    if (size >= u.from * 0.99995) return &u;
  return nullptr;
}

// Four significant digits and no more decimals than they need.
std::string plain(double size) {
  const int digits = size == 0 ? 0 : std::clamp(3 - static_cast<int>(std::floor(std::log10(size))), 0, 7);
  return without_zeros(fmt::format("{:.{}f}", size, digits));
}

// Labels of one axis share a unit, and have the decimals that tell its steps apart.
void label(std::vector<Tick>& ticks, double step) {
  double largest = 0;
  for (const Tick& t : ticks) largest = std::max(largest, std::abs(t.value));
  double value = 1;
  std::string letter;
  if (const Unit* unit = unit_of(largest)) {
    value = unit->value;
    letter = unit->letter;
  } else if (largest < 9.995e-5) {
    const double exponent = std::floor(std::log10(largest) + 1e-9);
    value = std::pow(10, exponent);
    letter = fmt::format("e{:g}", exponent);
  }
  const int decimals = std::clamp(-static_cast<int>(std::floor(std::log10(step / value) + 1e-9)), 0, 12);
  for (Tick& t : ticks) {
    const double size = std::abs(t.value);
    t.label = size < step / 2 ? "0" : (t.value < 0 ? "−" : "") + without_zeros(fmt::format("{:.{}f}", size / value, decimals)) + letter;
  }
}

}  // namespace

std::string short_number(double value) {
  const double size = std::abs(value);
  if (!std::isfinite(value)) return std::isnan(value) ? "–" : value > 0 ? "∞" : "−∞";
  const std::string sign = value < 0 ? "−" : "";
  if (const Unit* unit = unit_of(size)) {
    const double scaled = size / unit->value;
    return sign + without_zeros(fmt::format("{:.{}f}", scaled, scaled >= 99.95 ? 0 : scaled >= 9.995 ? 1 : 2)) + unit->letter;
  }
  if (size == 0 || size >= 9.995e-5) return sign + plain(size);
  int exponent = static_cast<int>(std::floor(std::log10(size)));
  double mantissa = size / std::pow(10, exponent);
  if (mantissa >= 9.995) mantissa = 1, ++exponent;
  return fmt::format("{}{}e{}", sign, without_zeros(fmt::format("{:.2f}", mantissa)), exponent);
}

double Axis::position(double value) const {
  if (log) return std::log(value / low) / std::log(high / low);
  return (value - low) / (high - low);
}

Axis linear_axis(double low, double high, int marks, bool round_out) {
  // One value, or values that only rounding tells apart: a window around them. (Steps that are lost in the ticks' size would never end.)
  if (!(high - low > 1e-9 * std::max(std::abs(low), std::abs(high)))) {
    const double half = low == 0 ? 1 : std::abs(low) * 0.1;
    low -= half;
    high += half;
  }
  Axis axis;
  const double step = round_step((high - low) / marks);
  axis.low = round_out ? std::floor(low / step + 1e-9) * step : low;
  axis.high = round_out ? std::ceil(high / step - 1e-9) * step : high;
  // Ticks are multiples of the step, computed as such: adding the step up would drift.
  for (double k = std::ceil(axis.low / step - 1e-9); k * step <= axis.high + step * 1e-9; ++k) axis.ticks.push_back({k * step, {}});
  label(axis.ticks, step);
  return axis;
}

Axis log_axis(double low, double high, int marks) {
  if (!(high > low * 1.0001)) {
    low /= 2;
    high *= 2;
  }
  Axis axis;
  axis.log = true;
  const double decades = std::log10(high / low);
  // 1, 2, 5 per decade when few decades are shown; else each, every second, … decade.
  const bool fine = decades * 3 <= marks * 1.7;
  const int stride = std::max(1, static_cast<int>(std::ceil(decades / (marks * 1.2))));
  if (decades < 0.7) {  // less than 1, 2, 5 can mark: round numbers of the linear kind
    axis = linear_axis(low, high, marks, true);
    if (axis.low > 0) {
      axis.log = true;
      return axis;
    }
    axis = Axis{.log = true, .ticks = {}};
  }
  const int first = static_cast<int>(std::floor(std::log10(low) + 1e-9)), last = static_cast<int>(std::ceil(std::log10(high) - 1e-9));
  std::vector<double> values;
  for (int e = first; e <= last; ++e)
    for (const double m : {1., 2., 5.})
      if (fine ? (e < last || m == 1) : (m == 1 && (e - first) % stride == 0)) values.push_back(m * std::pow(10, e));
  // The ends are the marks just outside the data, or the data's own ends where marks are sparse.
  axis.low = low;
  axis.high = high;
  for (const double v : values) {
    if (v <= low * 1.0001 && fine) axis.low = v;
  }
  for (auto v = values.rbegin(); v != values.rend(); ++v) {
    if (*v >= high * 0.9999 && fine) axis.high = *v;
  }
  for (const double v : values)
    if (v >= axis.low * 0.9999 && v <= axis.high * 1.0001)
      axis.ticks.push_back({v, short_number(v)});  // decades apart: each in its own unit
  return axis;
}

}  // namespace finback::formats
