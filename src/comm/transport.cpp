#include "comm/transport.h"

namespace finback::comm {

std::string with_rank(const core::Error& error, const Transport& transport) {
  if (error.code() == core::Exit::distributed || transport.size() == 1) return error.what();
  const std::string phase = transport.phase();
  return fmt::format("{}{}: {}", transport.name(transport.rank()), phase.empty() ? "" : fmt::format(" in phase '{}'", phase), error.what());
}

}  // namespace finback::comm
