#include "formats/trace.h"

#include <fmt/format.h>
#include <boost/json/serialize.hpp>

namespace finback::formats {
namespace {

std::string quoted(std::string_view text) { return boost::json::serialize(boost::json::string(text)); }

}  // namespace

TraceWriter::TraceWriter(const std::string& path) : file_(path) { file_.write("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n"); }

void TraceWriter::line(std::string_view object) {
  if (!first_) file_.write(",\n");
  first_ = false;
  file_.write(object);
}

void TraceWriter::name_process(int process, std::string_view name) {
  line(fmt::format(R"({{"ph":"M","name":"process_name","pid":{},"args":{{"name":{}}}}})", process, quoted(name)));
}

void TraceWriter::name_thread(int process, int thread, std::string_view name) {
  line(fmt::format(R"({{"ph":"M","name":"thread_name","pid":{},"tid":{},"args":{{"name":{}}}}})", process, thread, quoted(name)));
}

void TraceWriter::add(const TraceSpan& s) {
  std::string shown;
  const auto show = [&](std::string_view name, double value) {
    shown += fmt::format("{}\"{}\":{:.6g}", shown.empty() ? "" : ",", name, value);
  };
  const double bytes = s.work.read + s.work.written, nanoseconds = s.duration * 1e9;
  if (s.layer >= 0) show("layer", static_cast<double>(s.layer));
  if (s.work.flops > 0) show("MFLOP", s.work.flops / 1e6);
  if (bytes > 0) show("MB", bytes / 1e6);
  if (nanoseconds > 0 && s.work.flops > 0) show("GFLOPS", s.work.flops / nanoseconds);
  if (nanoseconds > 0 && bytes > 0) show("GB/s", bytes / nanoseconds);
  line(fmt::format(R"({{"ph":"X","name":{},"cat":{},"ts":{:.3f},"dur":{:.3f},"pid":{},"tid":{},"args":{{{}}}}})", quoted(s.name),
                   quoted(s.category), s.begin * 1e6, s.duration * 1e6, s.process, s.thread, shown));
}

void TraceWriter::commit() {
  file_.write("\n]}\n");
  file_.commit();
}

void write_trace(const std::string& path, const core::Spans& spans) {
  TraceWriter writer(path);
  writer.name_process(0, "finback");
  const double start = spans.count() > spans.first() ? spans[spans.first()].begin : 0;
  for (std::int64_t i = spans.first(); i < spans.count(); ++i) {
    const core::Span& s = spans[i];
    if (s.end == 0) continue;
    writer.add(
        {.name = s.name, .category = "step", .begin = s.begin - start, .duration = s.end - s.begin, .layer = s.layer, .work = s.work});
  }
  writer.commit();
}

}  // namespace finback::formats
