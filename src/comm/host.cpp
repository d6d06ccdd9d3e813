#include "comm/host.h"

#include <unistd.h>

namespace finback::comm {

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "this host";
}

}  // namespace finback::comm
