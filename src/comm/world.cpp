#include "comm/world.h"

#include "comm/launcher.h"
#include "comm/mpi_transport.h"
#include "comm/threads.h"
#include "core/log.h"

#include <unistd.h>

#include <csignal>

namespace finback::comm {
namespace {

// A launcher whose job has lost a process asks the others to end, and makes them a second later: time enough to say who it was, which
// the next wait does.
void on_terminate(int) { ::alarm(1); }

class PatienceAtTheEnd {
 public:
  PatienceAtTheEnd() {
    set_if_default(SIGTERM, on_terminate, terminate_);
    set_if_default(SIGUSR1, SIG_IGN, user_);  // how MPICH's launcher tells of a lost process
  }
  ~PatienceAtTheEnd() {
    ::sigaction(SIGTERM, &terminate_, nullptr);
    ::sigaction(SIGUSR1, &user_, nullptr);
  }
  PatienceAtTheEnd(const PatienceAtTheEnd&) = delete;

 private:
  static void set_if_default(int signal, void (*handler)(int), struct sigaction& before) {
    struct sigaction action = {};
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    ::sigaction(signal, nullptr, &before);
    if (before.sa_handler == SIG_DFL) ::sigaction(signal, &action, nullptr);
  }
  struct sigaction terminate_, user_;
};

void run_process(const Launcher& launcher, const Options& options, const std::function<void(Communicator&)>& body) {
  const mpi::Calls& calls = load_mpi(launcher);
  const PatienceAtTheEnd patience;
  std::unique_ptr<MpiTransport> transport;
  const auto fail = [&](core::Exit code, std::string_view text) {
    if (!transport) {  // the others wait within MPI
      core::log_line(fmt::format("error: {}", text));
      calls.abort(static_cast<int>(code));
    } else {
      if (transport->claim() && !transport->told_by_others()) core::log_line(fmt::format("error: {}", text));
      transport->fail(code, text);
    }
    return Reported(code, text, "", "");
  };
  try {
    transport = std::make_unique<MpiTransport>(calls, launcher.ranks, options);
    Communicator communicator(*transport, options);
    body(communicator);
    communicator.set_phase("end");
    communicator.barrier();
  } catch (const Reported& e) {
    if (transport) transport->fail(e.code(), e.what());
    throw;
  } catch (const core::Error& e) {
    throw fail(e.code(), transport ? with_rank(e, *transport) : e.what());
  } catch (const std::bad_alloc&) {
    throw fail(core::Exit::failed, fmt::format("out of memory, {}, use a smaller model, micro_batch or seq_len",
                                               transport ? transport->name(transport->rank()) : "at the start"));
  } catch (const std::exception& e) {
    throw fail(core::Exit::failed, e.what());
  }
  transport->finish();
}

}  // namespace

bool under_launcher() { return launcher().has_value(); }

void run_ranks(int ranks, const Options& options, const std::function<void(Communicator&)>& body) {
  const std::optional<Launcher> found = launcher();
  if (!found) return run_threads(ranks, options, body);
  if (ranks > 1)
    throw core::Error(core::Exit::usage, fmt::format("{} ranks as threads in each process of {}", ranks, found->name), "--ranks",
                      "leave --ranks out: the launcher says how many there are");
  run_process(*found, options, body);
}

}  // namespace finback::comm
