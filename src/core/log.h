// Messages to the person at the terminal, on stderr. Standard output carries results alone.
#pragma once

#include <fmt/format.h>

#include <string_view>

namespace finback::core {

void log_line(std::string_view text);     // "text"
void log_warning(std::string_view text);  // "warning: text"

template <class... A>
void inform(fmt::format_string<A...> f, A&&... a) {
  log_line(fmt::format(f, std::forward<A>(a)...));
}
template <class... A>
void warn(fmt::format_string<A...> f, A&&... a) {
  log_warning(fmt::format(f, std::forward<A>(a)...));
}

// A line that replaces itself on a terminal, and is printed now and then where there is none (a file, a pipe).
class Progress {
 public:
  explicit Progress(double seconds_between_plain_lines = 10);
  ~Progress();
  void update(std::string_view text);
  void finish(std::string_view text = {});

 private:
  bool terminal_;
  bool open_ = false;
  double interval_, last_ = -1e300;
};

}  // namespace finback::core
