// What a user did wrong, and what a programmer did wrong. They are told apart everywhere:
//   - `Error` is for input from outside (files, flags, configs): it says what is wrong, where, and what to do.
//     main() prints it as one line `error: what, where, what to do` and exits with its code.
//   - `FB_CHECK` is for bugs of ours: it prints the values and aborts. It is never compiled out.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace finback::core {

// Exit codes of every finback command.
enum class Exit : int {
  done = 0,
  failed = 1,
  usage = 2,        // command line or configuration
  bad_input = 3,    // an input file is malformed
  io = 4,           // the operating system refused a read or write
  numeric = 5,      // NaN or infinity that did not go away
  distributed = 6,  // another rank failed
  stopped = 7,      // interrupted, with a checkpoint saved
};

class Error : public std::runtime_error {
 public:
  // what: the fault in a few words. where: file, field, byte offset. remedy: what the user can do.
  Error(Exit code, std::string_view what, std::string_view where, std::string_view remedy);
  Exit code() const { return code_; }

 private:
  Exit code_;
};

// The error for a failed system call: reads errno. `action` completes "cannot <action>".
Error io_error(std::string_view action, std::string_view path,
               std::string_view remedy = "check the path, the permissions and the free space");

[[noreturn]] void check_failed(const char* condition, const char* file, int line, const std::string& values);

}  // namespace finback::core

#define FB_CHECK(condition, ...)                                                                    \
  do {                                                                                              \
    if (!(condition)) [[unlikely]]                                                                  \
      ::finback::core::check_failed(#condition, __FILE__, __LINE__, ::fmt::format("" __VA_ARGS__)); \
  } while (false)
