#include "cli/output.h"

#include "core/error.h"

#include <cstdio>

namespace finback::cli {

void write_output(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    throw core::io_error("write", "standard output");
}

}  // namespace finback::cli
