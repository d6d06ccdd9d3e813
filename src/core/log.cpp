#include "core/log.h"

#include "core/clock.h"

#include <unistd.h>

#include <cerrno>
#include <mutex>
#include <string>

namespace finback::core {
namespace {

std::mutex mutex;

// A closed stderr must not stop a run: errors are ignored here.
void put(std::string_view s) {
  while (!s.empty()) {
    const ssize_t n = ::write(STDERR_FILENO, s.data(), s.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    s.remove_prefix(static_cast<std::size_t>(n));
  }
}

}  // namespace

void log_line(std::string_view text) {
  std::lock_guard lock(mutex);
  put(fmt::format("{}\n", text));
}

void log_warning(std::string_view text) {
  std::lock_guard lock(mutex);
  put(fmt::format("warning: {}\n", text));
}

Progress::Progress(double seconds) : terminal_(::isatty(STDERR_FILENO) == 1), interval_(seconds) {}

Progress::~Progress() {
  if (open_) put("\n");
}

void Progress::update(std::string_view text) {
  const double now = seconds_now();
  if (terminal_) {
    if (now - last_ < 0.1) return;
    put(fmt::format("\r\x1b[2K{}", text));
    open_ = true;
  } else {
    if (now - last_ < interval_) return;
    put(fmt::format("{}\n", text));
  }
  last_ = now;
}

void Progress::finish(std::string_view text) {
  if (terminal_ && open_) put("\r\x1b[2K");
  open_ = false;
  if (!text.empty()) put(fmt::format("{}\n", text));
}

}  // namespace finback::core
