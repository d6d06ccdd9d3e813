// The only file that knows MPI: plain MPI-3, compiled once for each MPI.
#include "comm/mpi/calls.h"

#include <mpi.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

namespace {

constexpr long long kPiece = 1LL << 30;  // counts are ints

struct Request {
  std::vector<MPI_Request> pieces;
  std::vector<MPI_Status> statuses;
  bool receive = false, used = false;
};

// Of this process, as MPI itself is.
MPI_Comm channels[2];
std::vector<Request> requests;

int new_request() {
  std::size_t i = 0;
  while (i < requests.size() && requests[i].used) ++i;
  if (i == requests.size()) requests.emplace_back();
  requests[i].used = true;
  requests[i].pieces.clear();
  return static_cast<int>(i);
}

template <class Call>
int in_pieces(long long count, Request& request, const Call& call) {
  long long begin = 0;
  do {
    const long long n = std::min(kPiece, count - begin);
    MPI_Request piece;
    if (const int error = call(begin, static_cast<int>(n), &piece)) return error;
    request.pieces.push_back(piece);
    begin += n;
  } while (begin < count);
  return 0;
}

int start(int* rank, int* size) {
  int provided = 0;
  if (const int error = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided)) return error;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  for (MPI_Comm& c : channels) {
    if (const int error = MPI_Comm_dup(MPI_COMM_WORLD, &c)) return error;
    MPI_Comm_set_errhandler(c, MPI_ERRORS_RETURN);
  }
  MPI_Comm_rank(MPI_COMM_WORLD, rank);
  return MPI_Comm_size(MPI_COMM_WORLD, size);
}

int finish() {
  for (Request& r : requests) {
    if (!r.used) continue;
    for (MPI_Request& piece : r.pieces) {
      if (piece == MPI_REQUEST_NULL) continue;
      if (r.receive) MPI_Cancel(&piece);
      MPI_Request_free(&piece);
    }
  }
  for (MPI_Comm& c : channels) MPI_Comm_free(&c);
  return MPI_Finalize();
}

void abort(int code) { MPI_Abort(MPI_COMM_WORLD, code); }

int send(const void* bytes, long long count, int to, int tag, int channel, int* request) {
  *request = new_request();
  Request& r = requests[static_cast<std::size_t>(*request)];
  r.receive = false;
  return in_pieces(count, r, [&](long long begin, int n, MPI_Request* piece) {
    return MPI_Isend(static_cast<const char*>(bytes) + begin, n, MPI_BYTE, to, tag, channels[channel], piece);
  });
}

int receive(void* bytes, long long count, int from, int tag, int channel, int* request) {
  *request = new_request();
  Request& r = requests[static_cast<std::size_t>(*request)];
  r.receive = true;
  return in_pieces(count, r, [&](long long begin, int n, MPI_Request* piece) {
    return MPI_Irecv(static_cast<char*>(bytes) + begin, n, MPI_BYTE, from < 0 ? MPI_ANY_SOURCE : from, tag, channels[channel], piece);
  });
}

int test(int request, int* done, long long* received, int* from) {
  Request& r = requests[static_cast<std::size_t>(request)];
  r.statuses.resize(r.pieces.size());
  *done = 0;
  if (const int error = MPI_Testall(static_cast<int>(r.pieces.size()), r.pieces.data(), done, r.statuses.data())) {
    if (error != MPI_ERR_IN_STATUS) return error;
    for (const MPI_Status& s : r.statuses)
      if (s.MPI_ERROR != MPI_SUCCESS && s.MPI_ERROR != MPI_ERR_PENDING) return s.MPI_ERROR;
    return error;
  }
  if (*done == 0) return 0;
  *received = 0;
  *from = -1;
  if (r.receive) {
    for (const MPI_Status& s : r.statuses) {
      int n = 0;
      MPI_Get_count(&s, MPI_BYTE, &n);
      *received += n;
    }
    *from = r.statuses[0].MPI_SOURCE;
  }
  r.used = false;
  return 0;
}

int all_gather(const void* mine, void* all, int bytes) { return MPI_Allgather(mine, bytes, MPI_BYTE, all, bytes, MPI_BYTE, channels[0]); }

int all_to_all(const void* out, const int* send_counts, void* in, const int* receive_counts) {
  int n = 0;
  MPI_Comm_size(channels[0], &n);
  std::vector<int> from(static_cast<std::size_t>(n)), to(static_cast<std::size_t>(n));
  std::exclusive_scan(send_counts, send_counts + n, from.begin(), 0);
  std::exclusive_scan(receive_counts, receive_counts + n, to.begin(), 0);
  return MPI_Alltoallv(out, send_counts, from.data(), MPI_BYTE, in, receive_counts, to.data(), MPI_BYTE, channels[0]);
}

void text(int error, char* out, int size) {
  char message[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  if (MPI_Error_string(error, message, &length) != MPI_SUCCESS) std::strcpy(message, "an unknown error of MPI");
  std::strncpy(out, message, static_cast<std::size_t>(size) - 1);
  out[size - 1] = 0;
}

#if defined(OPEN_MPI)
constexpr const char* kLibrary = "Open MPI";
#elif defined(MPICH_VERSION)
constexpr const char* kLibrary = "MPICH";
#else
constexpr const char* kLibrary = "MPI";
#endif

}  // namespace

const finback::comm::mpi::Calls* finback_mpi_calls() {
  static constexpr finback::comm::mpi::Calls calls = {
      finback::comm::mpi::kCallsVersion, kLibrary, start, finish, abort, send, receive, test, all_gather, all_to_all, text};
  return &calls;
}
