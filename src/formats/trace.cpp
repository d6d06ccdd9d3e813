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
  line(fmt::format(R"({{"ph":"X","name":{},"cat":{},"ts":{:.3f},"dur":{:.3f},"pid":{},"tid":{}}})", quoted(s.name), quoted(s.category),
                   s.begin * 1e6, s.duration * 1e6, s.process, s.thread));
}

void TraceWriter::commit() {
  file_.write("\n]}\n");
  file_.commit();
}

}  // namespace finback::formats
