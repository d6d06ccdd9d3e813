// Traces for chrome://tracing and ui.perfetto.dev: "complete" events of the Trace Event Format, one line each.
#pragma once

#include "core/file.h"
#include "core/spans.h"

#include <cstdint>
#include <string>
#include <string_view>

namespace finback::formats {

struct TraceSpan {
  std::string_view name, category;
  double begin = 0, duration = 0;  // seconds
  int process = 0, thread = 0;     // a rank and a line of it
  std::int64_t layer = -1;         // shown unless −1
  core::Work work;                 // shown as rates, where known
};

// Streams to a file that appears under its name at commit().
class TraceWriter {
 public:
  explicit TraceWriter(const std::string& path);  // *.json
  void name_process(int process, std::string_view name);
  void name_thread(int process, int thread, std::string_view name);
  void add(const TraceSpan& span);
  void commit();

 private:
  void line(std::string_view object);
  core::AtomicFile file_;
  bool first_ = true;
};

// All spans held that are over, on one line, their times counted from the first of them. Throws Error(io).
void write_trace(const std::string& path, const core::Spans& spans);

}  // namespace finback::formats
