// finback doctor: what this machine offers to finback, and what to do where something is missing.
#include "cli/command.h"
#include "comm/launcher.h"
#include "core/json.h"
#include "core/machine.h"
#include "kernels/kernels.h"
#include "measure/ceiling.h"

#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace finback::cli {
namespace {

bool on_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::string folders = path ? path : "";
  folders += ':';
  for (std::size_t begin = 0, end; (end = folders.find(':', begin)) != std::string::npos; begin = end + 1)
    if (access((folders.substr(begin, end - begin) + '/' + program).c_str(), X_OK) == 0) return true;
  return false;
}

void line(bool good, const char* what, const std::string& text) { fmt::print("{} {:<17} {}\n", good ? "✓" : "✗", what, text); }

double gib(std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

void doctor(bool json) {
  const core::Machine machine = core::this_machine();
  const std::vector<std::string_view> runnable = kernels::runnable();
  const kernels::Table& table = kernels::best();
  const std::vector<std::string> libraries = comm::mpi_libraries();
  const bool launcher = on_path("mpirun") || on_path("srun"), mpi = launcher && !libraries.empty();
  // Installed is not enough: many systems forbid the namespaces that it needs.
  const bool sandbox = on_path("bwrap");
  const bool sandbox_works = sandbox && std::system("bwrap --ro-bind / / --unshare-all true >/dev/null 2>&1") == 0;
  const bool huge = machine.huge_pages == "always" || machine.huge_pages == "madvise";
  core::Team team(machine.cores);
  const measure::Ceiling ceiling = measure::ceiling(team, 2);
  const bool wide = table.name != "reference" && table.name != "portable";

  if (json) {
    boost::json::array names, mpis;
    for (const std::string& l : libraries) mpis.emplace_back(l);
    for (const std::string_view n : runnable) names.emplace_back(n);
    fmt::print("{}\n",
               core::pretty_json(boost::json::object{{"version", FINBACK_VERSION},
                                                     {"cpu", machine.cpu},
                                                     {"instruction_path", table.name},
                                                     {"instruction_paths_runnable", names},
                                                     {"cores", machine.cores},
                                                     {"memory_bytes", machine.memory_bytes},
                                                     {"memory_available_bytes", machine.available_bytes},
                                                     {"huge_pages", machine.huge_pages},
                                                     {"mpi", mpi},
                                                     {"mpi_libraries", mpis},
                                                     {"sandbox", sandbox_works},
                                                     {"ceiling", boost::json::object{{"fp32_gflops", ceiling.fp32_gflops},
                                                                                     {"bf16_gflops", ceiling.bf16_gflops},
                                                                                     {"memory_gb_per_s", ceiling.memory_gb_per_s}}}}));
    return;
  }
  fmt::print("finback {} on {}\n", FINBACK_VERSION, machine.cpu.empty() ? "a processor that does not say its name" : machine.cpu);
  line(wide, "instruction path",
       fmt::format("{} (runs here: {}; FINBACK_ISA chooses another){}", table.name, fmt::join(runnable, ", "),
                   wide ? "" : ": correct but slow; a processor with AVX2 or AVX-512 is many times faster"));
  line(true, "cores", fmt::format("{}", machine.cores));
  line(machine.available_bytes > (std::int64_t{2} << 30), "memory",
       fmt::format("{:.1f} of {:.1f} GiB available", gib(machine.available_bytes), gib(machine.memory_bytes)));
  line(huge, "huge pages",
       huge ? machine.huge_pages : "off: some speed is lost; as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
  line(true, "ceiling",
       fmt::format("fp32 {:.0f} GFLOPS, bf16 {:.0f} GFLOPS, memory {:.1f} GB/s (finback bench ceiling measures longer)",
                   ceiling.fp32_gflops, ceiling.bf16_gflops, ceiling.memory_gb_per_s));
  line(mpi, "MPI",
       mpi ? fmt::format("{}, and a launcher", fmt::join(libraries, ", "))
       : libraries.empty()
           ? "none was there when finback was built: only many machines need one (scripts/setup, configure and build again)"
           : fmt::format("{}, but no launcher: only many machines need one (apt-get install openmpi-bin)", fmt::join(libraries, ", ")));
  line(sandbox_works, "sandbox",
       sandbox_works ? "bubblewrap works"
       : sandbox     ? "bubblewrap may not make namespaces here: generated programs will not be run (see the kernel's user namespaces)"
                     : "no bubblewrap: only running generated programs needs it (apt-get install bubblewrap)");
}

}  // namespace

void add_doctor(CLI::App& app) {
  auto* command = app.add_subcommand("doctor", "What this machine offers, and what to do where something is missing");
  const auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "one JSON object");
  command->footer("Example:\n  finback doctor");
  command->callback([json] { doctor(*json); });
}

}  // namespace finback::cli
