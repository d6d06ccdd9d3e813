#pragma once

#include <string>

namespace finback::comm {

std::string host_name();  // of this machine, as messages name it

}  // namespace finback::comm
