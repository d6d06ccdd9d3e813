#include "measure/peer.h"

#include "core/clock.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>

extern char** environ;

namespace finback::measure {
namespace {

// How long either side's threads look for work before they sleep (core/team.cpp): neither is to find the other's still looking.
constexpr useconds_t kSettle = 2000;

pid_t spawn(const std::string& program, const std::vector<std::string>& arguments, int socket) {
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, socket, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, socket, STDOUT_FILENO);
  pid_t child = -1;
  const int failed = posix_spawn(&child, program.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  return failed ? -1 : child;
}

// Waits a second for a child that has been told to go, then ends it.
void end(pid_t child) {
  for (int i = 0; i < 100; ++i) {
    if (::waitpid(child, nullptr, WNOHANG) != 0) return;
    ::usleep(10'000);
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

}  // namespace

Peer::Peer(const std::string& program, const std::vector<std::string>& arguments, double patience) {
  int ends[2];
  if (program.empty() || ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return;
  socket_ = ends[0];
  child_ = spawn(program, arguments, ends[1]);
  ::close(ends[1]);
  const std::optional<std::string> first = line(patience);
  if (first && first->rfind("ready ", 0) == 0) name_ = first->substr(6);
  else leave();
}

Peer::~Peer() { leave(); }

void Peer::leave() {
  if (socket_ >= 0) ::close(socket_);
  socket_ = -1;
  if (child_ > 0) end(child_);
  child_ = -1;
}

std::optional<std::string> Peer::line(double patience) {
  const double until = core::seconds_now() + patience;
  for (;;) {
    if (const std::size_t length = read_.find('\n'); length != std::string::npos) {
      const std::string found = read_.substr(0, length);
      read_.erase(0, length + 1);
      return found;
    }
    pollfd p{socket_, POLLIN, 0};
    const double left = std::min(until - core::seconds_now(), 1e6);
    char bytes[256];
    if (read_.size() > sizeof bytes || left <= 0 || ::poll(&p, 1, static_cast<int>(1000 * left) + 1) <= 0) return std::nullopt;
    const ssize_t got = ::recv(socket_, bytes, sizeof bytes, 0);
    if (got <= 0) return std::nullopt;
    read_.append(bytes, static_cast<std::size_t>(got));
  }
}

std::optional<double> Peer::run(double seconds, double patience) {
  if (!present()) return std::nullopt;
  ::usleep(kSettle);
  const std::string command = fmt::format("run {}\n", seconds);
  const bool sent = ::send(socket_, command.data(), command.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(command.size());
  if (const auto answer = sent ? line(patience) : std::nullopt) {
    double rate = 0;
    const char* last = answer->data() + answer->size();
    const auto [at, error] = std::from_chars(answer->data(), last, rate);
    if (error == std::errc() && at == last && std::isfinite(rate) && rate > 0) {
      ::usleep(kSettle);
      return rate;
    }
  }
  leave();
  return std::nullopt;
}

}  // namespace finback::measure
