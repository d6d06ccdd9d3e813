// The folder of a run, and the two ways its process is told to stop.
#pragma once

#include <memory>
#include <string>

namespace finback::train {

// Holds DIR/lock (flock) as long as it lives: two processes never write one run. The lock falls with the process, however it
// ends; what a dead one left in the file is only a note.
class RunLock {
 public:
  // Creates the folder. Throws Error(usage) that names the holder, Error(io) if the folder cannot be written.
  explicit RunLock(const std::string& directory);
  ~RunLock();
  RunLock(const RunLock&) = delete;

 private:
  int fd_ = -1;
};

// While it lives, SIGINT, SIGTERM and SIGHUP ask for a stop; a second one ends the process at once with 130.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  bool requested() const;
  const char* name() const;  // of the signal that came

 private:
  struct Saved;
  std::unique_ptr<Saved> saved_;
};

}  // namespace finback::train
