// Another program measured in turn with finback: a child that holds the same product ready and works when it is told to.
//
// The child gets a socket as standard input and output and speaks lines. It says "ready NAME" once its operands are there; to
// "run SECONDS" it works for about so long and answers with the rate it reached, in GFLOPS; at the end of its input it goes.
// Between the commands it must not keep a core busy.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace finback::measure {

class Peer {
 public:
  // Starts `program` with `arguments` and waits `patience` seconds for it to be ready. A program that is absent, dies, is silent or
  // says anything else is absent from then on: a peer is never an error.
  Peer(const std::string& program, const std::vector<std::string>& arguments, double patience);
  ~Peer();
  Peer(const Peer&) = delete;

  bool present() const { return socket_ >= 0; }
  const std::string& name() const { return name_; }  // as the child gives it; empty when it never was ready
  // GFLOPS over about `seconds`, at most `patience` in all.
  std::optional<double> run(double seconds, double patience);

 private:
  std::optional<std::string> line(double patience);
  void leave();
  int socket_ = -1;
  pid_t child_ = -1;
  std::string name_, read_;
};

}  // namespace finback::measure
