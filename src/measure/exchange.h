// finback bench exchange: the all-to-all that experts use, beside the same bytes by MPI_Alltoallv and by a copy.
#pragma once

#include "comm/communicator.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace finback::measure {

struct ExchangeOptions {
  std::vector<std::int64_t> bytes_per_pair = {std::int64_t{4} << 10, std::int64_t{256} << 10, std::int64_t{8} << 20};
  double seconds = 1;  // for each size
};

// Rates are 10^9 bytes a second that a rank receives, from itself too, while all ranks do so; the best of many bursts measured in turn,
// since what disturbs a burst only slows it.
struct ExchangeSpeed {
  std::int64_t bytes_per_pair = 0;
  double gb_per_s = 0;           // from shared memory
  double unshared_gb_per_s = 0;  // from any other
  double peer_gb_per_s = 0;      // MPI_Alltoallv, blocking; among threads the copy
  double copy_gb_per_s = 0;      // memcpy of as many bytes within every rank
  double share_of_copy() const { return gb_per_s / copy_gb_per_s; }
};

// Every rank calls it; all get rank 0's figures. Throws Error(failed) when a byte arrives wrong.
std::vector<ExchangeSpeed> bench_exchange(comm::Communicator& communicator, const ExchangeOptions& options);

}  // namespace finback::measure
