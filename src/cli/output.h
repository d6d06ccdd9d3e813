// Standard output, where a command's product goes (what it says of itself goes to standard error: core/log.h).
#pragma once

#include <string_view>

namespace finback::cli {

// Written at once; throws Error(io) where the reader is gone or the disk is full.
void write_output(std::string_view text);

}  // namespace finback::cli
