// finback bench exchange: the all-to-all between ranks, among threads or under a launcher.
#include "cli/command.h"
#include "comm/world.h"
#include "core/json.h"
#include "measure/exchange.h"

#include <memory>

namespace finback::cli {
namespace {

struct ExchangeBench {
  measure::ExchangeOptions bench;
  comm::Options options;
  int ranks = 1;
  bool no_shared_memory = false, json = false;
};

void print(const ExchangeBench& o, const comm::Communicator& c, const std::vector<measure::ExchangeSpeed>& speeds) {
  if (o.json) {
    boost::json::array sizes;
    for (const measure::ExchangeSpeed& s : speeds)
      sizes.push_back(boost::json::object{{"bytes_per_pair", s.bytes_per_pair},
                                          {"gb_per_s", s.gb_per_s},
                                          {"unshared_gb_per_s", s.unshared_gb_per_s},
                                          {"peer_gb_per_s", s.peer_gb_per_s},
                                          {"copy_gb_per_s", s.copy_gb_per_s},
                                          {"share_of_copy", s.share_of_copy()}});
    fmt::print(
        "{}",
        core::pretty_json(boost::json::object{
            {"ranks", c.size()}, {"transport", c.transport_name()}, {"checksums", o.options.checksums}, {"sizes", std::move(sizes)}}));
    return;
  }
  fmt::print("{} ranks, {}: GB/s that a rank receives, itself counted\n{:>14} {:>9} {:>9} {:>9} {:>9} {:>9}\n", c.size(),
             c.transport_name(), "bytes a pair", "exchange", "unshared", "peer", "copy", "of copy");
  for (const measure::ExchangeSpeed& s : speeds)
    fmt::print("{:14} {:9.2f} {:9.2f} {:9.2f} {:9.2f} {:7.0f} %\n", s.bytes_per_pair, s.gb_per_s, s.unshared_gb_per_s, s.peer_gb_per_s,
               s.copy_gb_per_s, 100 * s.share_of_copy());
}

void bench_exchange(ExchangeBench& o) {
  o.options.shared_memory = !o.no_shared_memory;
  comm::run_ranks(o.ranks, o.options, [&](comm::Communicator& c) {
    const std::vector<measure::ExchangeSpeed> speeds = measure::bench_exchange(c, o.bench);
    if (c.rank() == 0) print(o, c, speeds);
  });
}

}  // namespace

void add_bench_exchange(CLI::App& bench) {
  auto* command = bench.add_subcommand("exchange", "The all-to-all between ranks, beside MPI_Alltoallv and a copy");
  const auto o = std::make_shared<ExchangeBench>();
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  command->add_option("--ranks", o->ranks, "ranks, as threads; under a launcher it says how many")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command
      ->add_option("--bytes", o->bench.bytes_per_pair,
                   "from each rank to each, one measurement for each number (default: 4 KiB, 256 KiB, 8 MiB)")
      ->check(CLI::Range(std::int64_t{1}, kMost));
  command->add_option("--seconds", o->bench.seconds, "for each measurement")->check(CLI::Range(0.01, 3600.0))->capture_default_str();
  command->add_option("--timeout", o->options.timeout, "seconds until a rank that stalls ends the job")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  command->add_flag("--checksums", o->options.checksums, "with a checksum for each message");
  command->add_flag("--no-shared-memory", o->no_shared_memory, "through MPI alone");
  command->add_flag("--json", o->json, "one JSON object");
  command->footer("Examples:\n  finback bench exchange --ranks 2\n  mpirun -n 2 finback bench exchange --json");
  command->callback([o] { bench_exchange(*o); });
}

}  // namespace finback::cli
