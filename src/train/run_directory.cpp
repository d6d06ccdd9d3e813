#include "train/run_directory.h"

#include "core/error.h"
#include "core/file.h"

#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>

namespace finback::train {

using core::Error;
using core::Exit;

namespace {

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "unknown host";
  return name.data();
}

// A signal handler can reach nothing else. One StopSignals lives at a time.
std::atomic<int> stop_signal{0};

void on_signal(int number) {
  int none = 0;
  if (!stop_signal.compare_exchange_strong(none, number)) ::_exit(130);
}

}  // namespace

RunLock::RunLock(const std::string& directory) {
  core::make_directories(directory);
  const std::string path = directory + "/lock";
  fd_ = core::sys::open_for_write(path, /*append=*/false, /*truncate=*/false);
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    const bool taken = errno == EWOULDBLOCK;
    ::close(fd_);
    if (!taken) throw core::io_error("lock", path);
    std::string holder = core::read_file(path, 4096);
    while (!holder.empty() && holder.back() == '\n') holder.pop_back();
    throw Error(Exit::usage, fmt::format("another process is writing this run ({})", holder.empty() ? "unknown" : holder), path,
                "wait for it, stop it, or choose another output.dir");
  }
  const std::string note = fmt::format("process {} on {}\n", ::getpid(), host_name());
  if (::ftruncate(fd_, 0) != 0) throw core::io_error("shorten", path);
  core::sys::write_all(fd_, note.data(), note.size(), path);
}

RunLock::~RunLock() {
  if (fd_ >= 0) ::close(fd_);
}

struct StopSignals::Saved {
  static constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP};
  std::array<struct sigaction, kSignals.size()> actions{};
};

StopSignals::StopSignals() : saved_(std::make_unique<Saved>()) {
  stop_signal = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;  // writes go on; the loop asks between steps
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < Saved::kSignals.size(); ++i) ::sigaction(Saved::kSignals[i], &action, &saved_->actions[i]);
}

StopSignals::~StopSignals() {
  for (std::size_t i = 0; i < Saved::kSignals.size(); ++i) ::sigaction(Saved::kSignals[i], &saved_->actions[i], nullptr);
}

bool StopSignals::requested() const { return stop_signal != 0; }

const char* StopSignals::name() const {
  switch (stop_signal.load()) {
    case SIGINT:
      return "SIGINT";
    case SIGTERM:
      return "SIGTERM";
    case SIGHUP:
      return "SIGHUP";
    default:
      return "none";
  }
}

}  // namespace finback::train
