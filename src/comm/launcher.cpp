#include "comm/launcher.h"

#include "core/error.h"
#include "core/file.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace finback::comm {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

int number(const char* name) { return std::atoi(variable(name).c_str()); }

// The path of a library of ours; empty where there is none.
std::string library_path(const std::string& name) {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  for (const char* below : {"", "../lib"}) {
    const std::string path = folder / below / ("libfinback_mpi_" + name + ".so");
    if (core::exists(path)) return path;
  }
  return {};
}

}  // namespace

std::optional<Launcher> launcher() {
  if (const int n = number("OMPI_COMM_WORLD_SIZE"); n > 0) return Launcher{"Open MPI's mpirun", {"openmpi"}, n};
  if (!variable("PMI_RANK").empty()) return Launcher{"a launcher that speaks PMI", {"mpich", "openmpi"}, number("PMI_SIZE")};
  if (!variable("PMIX_RANK").empty()) return Launcher{"a launcher that speaks PMIx", {"openmpi", "mpich"}, number("SLURM_STEP_NUM_TASKS")};
  if (!variable("SLURM_PROCID").empty() && number("SLURM_STEP_NUM_TASKS") > 1)
    throw core::Error(core::Exit::usage,
                      fmt::format("srun has started {} processes that know nothing of each other", number("SLURM_STEP_NUM_TASKS")),
                      "SLURM_STEP_NUM_TASKS", "use srun --mpi=pmix or --mpi=pmi2 (srun --mpi=list shows what there is)");
  return std::nullopt;
}

std::vector<std::string> mpi_libraries() {
  std::vector<std::string> names;
  for (const char* name : {"openmpi", "mpich"}) {
    const std::string path = library_path(name);
    void* library = path.empty() ? nullptr : ::dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL);
    if (library == nullptr) continue;
    names.emplace_back(name);
    ::dlclose(library);
  }
  return names;
}

const mpi::Calls& load_mpi(const Launcher& launcher) {
  std::vector<std::string> names = launcher.libraries;
  if (const std::string chosen = variable("FINBACK_MPI"); !chosen.empty()) names = {chosen};
  std::string why = fmt::format("no libfinback_mpi_{}.so beside the program", names.front());
  for (const std::string& name : names) {
    const std::string path = name.find('/') == std::string::npos ? library_path(name) : name;
    if (path.empty()) continue;
    // Global: an MPI's own plugins look for its symbols there.
    void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
    void* entry = library ? ::dlsym(library, "finback_mpi_calls") : nullptr;
    if (entry == nullptr) {
      why = ::dlerror();
      continue;
    }
    const mpi::Calls& calls = *reinterpret_cast<decltype(&finback_mpi_calls)>(entry)();
    if (calls.version == mpi::kCallsVersion) return calls;
    why = fmt::format("{} belongs to another build", path);
  }
  throw core::Error(core::Exit::distributed, fmt::format("started by {}, but {}", launcher.name, why), "",
                    "install that MPI (scripts/setup), configure and build again, or name another library in FINBACK_MPI");
}

}  // namespace finback::comm
