// A folder that lives as long as the object, and what tests do to the files in it.
#pragma once

#include "core/error.h"
#include "core/file.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace finback::testing {

class TempFolder {
 public:
  TempFolder() {
    // In memory where there is such a place: thousands of fsyncs on a busy disk take many seconds.
    const std::filesystem::path memory = "/dev/shm";
    const bool there = ::access(memory.c_str(), W_OK) == 0;
    std::string name = ((there ? memory : std::filesystem::temp_directory_path()) / "finback-test-XXXXXX").string();
    if (!::mkdtemp(name.data())) throw core::io_error("create", name);
    path_ = name;
  }
  ~TempFolder() { core::sys::remove_tree(path_); }
  TempFolder(const TempFolder&) = delete;
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Without the fsync of a real write: tests write thousands of files.
inline void put_file(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline void flip_bit(const std::string& path, std::size_t byte, int bit = 0) {
  std::string bytes = core::read_file(path, 1 << 30);
  bytes.at(byte) = static_cast<char>(bytes.at(byte) ^ (1 << bit));
  put_file(path, bytes);
}

// Expects an Error with this exit code whose text holds every one of `parts`.
template <class Body>
void expect_error(core::Exit code, std::initializer_list<std::string_view> parts, Body&& body) {
  try {
    body();
    ADD_FAILURE() << "no error, expected one with: " << *parts.begin();
  } catch (const core::Error& e) {
    EXPECT_EQ(static_cast<int>(e.code()), static_cast<int>(code)) << e.what();
    for (const auto part : parts)
      EXPECT_NE(std::string_view(e.what()).find(part), std::string_view::npos) << "'" << part << "' in: " << e.what();
  }
}

}  // namespace finback::testing
