// What fuzz targets share. The rule they check: outside data give an Error of an exit code meant for it, or a value; never another
// exception, a sanitizer's report, a hang, or memory beyond what the input's size explains.
#pragma once

#include "core/error.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace finback::fuzz {

// A folder in memory for readers that take paths; one a process.
inline const std::string& folder() {
  static const std::string path = [] {
    const std::string p = fmt::format("/dev/shm/finback-fuzz-{}", ::getpid());
    std::filesystem::create_directories(p);
    std::atexit([] { std::filesystem::remove_all(fmt::format("/dev/shm/finback-fuzz-{}", ::getpid())); });
    return p;
  }();
  return path;
}

inline std::string put(std::string_view name, std::string_view bytes) {
  const std::string path = fmt::format("{}/{}", folder(), name);
  std::ofstream(path, std::ios::binary | std::ios::trunc).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return path;
}

// Runs `body`; an Error is as good as success, if its code says that the input is at fault.
template <class Body>
void accept_or_refuse(Body&& body) {
  try {
    body();
  } catch (const core::Error& e) {
    const bool fitting = e.code() == core::Exit::bad_input || e.code() == core::Exit::usage || e.code() == core::Exit::io;
    FB_CHECK(fitting && *e.what(), "exit {}: {}", static_cast<int>(e.code()), e.what());
  }
}

inline std::string_view text(const std::uint8_t* data, std::size_t size) { return {reinterpret_cast<const char*>(data), size}; }

}  // namespace finback::fuzz

#define FUZZ(input)                                                                      \
  static void fuzz_one(std::string_view input);                                          \
  extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {    \
    finback::fuzz::accept_or_refuse([&] { fuzz_one(finback::fuzz::text(data, size)); }); \
    return 0;                                                                            \
  }                                                                                      \
  static void fuzz_one(std::string_view input)
