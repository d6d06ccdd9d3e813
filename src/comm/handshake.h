// Do all ranks run the same thing? Asked once at the start: a cluster with one old binary, one edited run file or one stale data set
// trains for days before anybody wonders.
#pragma once

#include "comm/communicator.h"

#include <span>
#include <string>
#include <vector>

namespace finback::comm {

struct Field {
  std::string name;   // as the message will say it: "tokenizer"
  std::string value;  // a name or a hash; only the first 95 bytes are compared
};

// This program: "build", a hash of its file. Throws Error(io).
Field this_build();

// All ranks call it with the same names in the same order. Throws Error(distributed) on every rank when a value differs, naming the
// ranks that have another than most, the field and the values.
void handshake(Communicator& communicator, std::span<const Field> fields);

}  // namespace finback::comm
