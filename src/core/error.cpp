#include "core/error.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace finback::core {
namespace {

std::string one_line(std::string_view what, std::string_view where, std::string_view remedy) {
  std::string text(what);
  if (!where.empty()) text += fmt::format(", {}", where);
  if (!remedy.empty()) text += fmt::format(", {}", remedy);
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  return text;
}

}  // namespace

Error::Error(Exit code, std::string_view what, std::string_view where, std::string_view remedy)
    : std::runtime_error(one_line(what, where, remedy)), code_(code) {}

Error io_error(std::string_view action, std::string_view path, std::string_view remedy) {
  return Error(Exit::io, fmt::format("cannot {}: {}", action, std::strerror(errno)), path, remedy);
}

void check_failed(const char* condition, const char* file, int line, const std::string& values) {
  std::fprintf(stderr, "%s:%d: check failed: %s%s%s\n", file, line, condition, values.empty() ? "" : " — ", values.c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace finback::core
