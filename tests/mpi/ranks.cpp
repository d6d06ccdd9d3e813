// One rank of a small job, for tests/mpi/run.sh: ranks SCENARIO [timeout] under a launcher, or `ranks threads N` for the same by threads.
// Prints a hash of the bits of all sums from rank 0.
#include "comm/handshake.h"
#include "comm/world.h"
#include "core/log.h"
#include "tests/comm/collectives.h"

#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string>

namespace {

using namespace finback;

std::uint64_t hash(const std::vector<float>& x) {
  std::uint64_t h = 14695981039346656037u;
  for (const std::byte b : std::as_bytes(std::span(x))) h = (h ^ static_cast<std::uint64_t>(b)) * 1099511628211u;
  return h;
}

void everything(comm::Communicator& c) {
  std::vector<float> sums;
  if (const std::string wrong = comm::test::everything(c, sums); !wrong.empty())
    throw core::Error(core::Exit::failed, wrong + " is wrong", c.name(c.rank()), "");
  if (c.rank() == 0) fmt::print("{} ranks, sums {:016x}\n", c.size(), hash(sums));
}

// Exchanges without an end: what a rank that goes meets the others in.
void exchange(comm::Communicator& c) {
  const auto n = static_cast<std::size_t>(c.size());
  std::vector<std::byte> out(n << 18), in(n << 18);
  const std::vector<std::int64_t> counts(n, 1 << 18);
  for (;;) c.start_all_to_all(out, counts, in, counts).wait();
}

void run(const std::string& scenario, comm::Communicator& c) {
  const bool chosen = c.rank() == (c.size() > 2 ? 2 : 1);
  if (scenario == "collectives") return everything(c);
  c.set_phase(chosen ? "backward" : "forward");
  if (scenario == "disagrees") {
    const comm::Field fields[] = {comm::this_build(), {"tokenizer", chosen ? "bb" : "aa"}};
    return comm::handshake(c, fields);
  }
  c.barrier();
  if (chosen && scenario == "throws") throw core::Error(core::Exit::io, "the disk is full", "shard 2", "free some space");
  if (chosen && scenario == "dies") std::raise(SIGKILL);
  if (chosen && scenario == "stops") std::raise(SIGSTOP);
  exchange(c);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string scenario = argc > 1 ? argv[1] : "collectives";
  try {
    if (scenario == "threads") {
      comm::run_ranks(std::atoi(argv[2]), {.timeout = 60}, everything);
    } else {
      const auto has = [](const char* name) { return std::getenv(name) != nullptr; };
      comm::run_ranks(
          1, {.timeout = argc > 2 ? std::atof(argv[2]) : 60.0, .checksums = has("CHECKSUMS"), .shared_memory = !has("NO_SHARED_MEMORY")},
          [&](comm::Communicator& c) { run(scenario, c); });
    }
  } catch (const comm::Reported& e) {
    return static_cast<int>(e.code());
  } catch (const core::Error& e) {
    core::log_line(fmt::format("error: {}", e.what()));
    return static_cast<int>(e.code());
  }
  return 0;
}
