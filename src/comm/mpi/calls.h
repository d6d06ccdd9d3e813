// What finback asks of MPI, as a table without a type of MPI's: libfinback_mpi_NAME.so fills it, one library for each MPI found when
// finback was built (mpi.cmake), and finback opens the one that its launcher speaks (comm/launcher.h).
//
// Every function but `text` and `abort` returns 0 or MPI's error code. Only the thread that called `start` calls them.
#pragma once

namespace finback::comm::mpi {

constexpr int kCallsVersion = 1;

struct Calls {
  int version;          // of this table
  const char* library;  // "Open MPI", "MPICH"

  int (*start)(int* rank, int* size);  // MPI_Init_thread; two communicators of all ranks, called channels 0 and 1
  int (*finish)();                     // MPI_Finalize; every rank
  void (*abort)(int code);             // MPI_Abort

  // Both return at once, with the number of a request, which is free again once it was found done. Bytes may be more than 2³¹.
  int (*send)(const void* bytes, long long count, int to, int tag, int channel, int* request);
  int (*receive)(void* bytes, long long count, int from, int tag, int channel, int* request);  // from −1: any rank
  int (*test)(int request, int* done, long long* received, int* from);                         // received and from: of a receive

  int (*all_gather)(const void* mine, void* all, int bytes_of_each);
  int (*all_to_all)(const void* send, const int* send_counts, void* receive, const int* receive_counts);  // MPI_Alltoallv, in rank order

  void (*text)(int error, char* out, int size);
};

}  // namespace finback::comm::mpi

extern "C" const finback::comm::mpi::Calls* finback_mpi_calls();
