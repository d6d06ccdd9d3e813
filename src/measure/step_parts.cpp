#include "measure/step_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

namespace finback::measure {
namespace {

std::string line(const StepParts& step, const StepPart& part, const std::string& what) {
  const auto rate = [&](double amount) { return amount > 0 ? fmt::format("{:9.1f}", amount / part.seconds * 1e-9) : std::string(9, ' '); };
  return fmt::format("{:5.1f} % {:9.2f} ms {:5} {} {}  {}\n", 100 * part.seconds / step.seconds, part.seconds * 1e3, part.calls,
                     rate(part.work.flops), rate(part.work.read + part.work.written), what);
}

}  // namespace

double StepParts::named() const {
  double sum = 0;
  for (const StepPart& p : parts) sum += p.seconds;
  return sum;
}

StepParts fastest_step(const core::Spans& spans) {
  const auto seconds = [&](std::int64_t i) { return spans[i].end - spans[i].begin; };
  std::int64_t fastest = -1;
  for (std::int64_t i = spans.first(); i < spans.count(); ++i)
    if (std::string_view(spans[i].name) == "step" && spans[i].end > 0 && (fastest < 0 || seconds(i) < seconds(fastest))) fastest = i;
  StepParts step;
  if (fastest < 0) return step;
  step.seconds = seconds(fastest);

  std::map<std::pair<std::string_view, std::string_view>, StepPart> by_name;
  for (std::int64_t i = fastest + 1; i < spans.count() && spans[i].begin < spans[fastest].end; ++i) {
    if (i + 1 < spans.count() && spans[i + 1].parent == i) continue;  // its parts follow
    const core::Span& s = spans[i];
    StepPart& part = by_name[{spans[s.parent].name, s.name}];
    part.phase = spans[s.parent].name;
    part.name = s.name;
    ++part.calls;
    part.seconds += seconds(i);
    part.work.flops += s.work.flops;
    part.work.read += s.work.read;
    part.work.written += s.work.written;
  }
  for (auto& [key, part] : by_name) step.parts.push_back(std::move(part));
  std::sort(step.parts.begin(), step.parts.end(), [](const StepPart& a, const StepPart& b) { return a.seconds > b.seconds; });
  return step;
}

std::string describe(const StepParts& step) {
  std::string out = fmt::format("where a step of {:.1f} ms goes\n{:>7} {:>12} {:>5} {:>9} {:>9}  in phase: kernel\n", step.seconds * 1e3,
                                "share", "time", "calls", "GFLOPS", "GB/s");
  StepPart small;
  std::int64_t kinds = 0;
  for (const StepPart& p : step.parts) {
    if (p.seconds >= 0.005 * step.seconds) {
      out += line(step, p, p.phase + ": " + p.name);
    } else {
      ++kinds;
      small.calls += p.calls;
      small.seconds += p.seconds;
    }
  }
  if (kinds > 0) out += line(step, small, fmt::format("{} smaller parts", kinds));
  const double rest = step.seconds - step.named();
  return out + fmt::format("{:5.1f} % {:9.2f} ms {:26} between the parts\n", 100 * rest / step.seconds, rest * 1e3, "");
}

}  // namespace finback::measure
