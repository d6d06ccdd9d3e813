// Which program started this one as one of several ranks, and the library that speaks with it.
#pragma once

#include "comm/mpi/calls.h"

#include <optional>
#include <string>
#include <vector>

namespace finback::comm {

struct Launcher {
  std::string name;                    // "Open MPI's mpirun"
  std::vector<std::string> libraries;  // that speak with it, the likeliest first: openmpi, mpich
  int ranks = 0;                       // as the launcher says; 0: it does not
};

// From the environment; nothing for a process that was started by itself. Throws Error(usage) under an srun that starts several processes
// without MPI between them.
std::optional<Launcher> launcher();

// Of openmpi and mpich, those whose libfinback_mpi_NAME.so lies beside this program or in ../lib and can be opened.
std::vector<std::string> mpi_libraries();

// Opens the library; FINBACK_MPI, a name or the path of one, overrides the choice. Throws Error(distributed) when there is none that fits.
const mpi::Calls& load_mpi(const Launcher& launcher);

}  // namespace finback::comm
