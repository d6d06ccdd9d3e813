#include "comm/communicator.h"

#include "comm/operation.h"
#include "comm/sum.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <thread>
#include <utility>

namespace finback::comm {
namespace {

// Tags of a communicator: 240 of its user's, then these.
constexpr int kTags = 256, kUserTags = 240;
enum Kind { kBarrier = kUserTags, kBroadcast, kAllToAll, kGather, kReduce };
constexpr int kContexts = 4096;

constexpr std::int64_t kBlock = std::int64_t{64} << 10;     // elements of a sum that are on their way at a time; two blocks are
constexpr std::size_t kGatherMost = std::size_t{16} << 10;  // elements that every rank sums by itself

template <class T>
std::span<const std::byte> bytes_of(const T* x, std::int64_t n) {
  return std::as_bytes(std::span(x, static_cast<std::size_t>(n)));
}

// Blocks of x travel to their ranks, one after another; a block is summed once all ranks' parts are here, while the next is under way.
template <class T>
struct ReduceScatter final : Operation {
  const T* x = nullptr;
  std::vector<std::int64_t> counts, offsets;  // elements of each rank
  std::vector<int> members;
  int me = 0, tag = 0;
  std::span<float> mine;
  std::int64_t block = 0, blocks = 0;
  std::vector<T> arrived[2];  // [rank][kBlock], of blocks by turns
  std::vector<const T*> parts;

  std::int64_t elements(int rank, std::int64_t b) const {
    return std::clamp(counts[static_cast<std::size_t>(rank)] - b * kBlock, std::int64_t{0}, kBlock);
  }
  T* place(int rank, std::int64_t b) { return arrived[b % 2].data() + rank * std::min(kBlock, counts[static_cast<std::size_t>(me)]); }

  void post(Shared& shared, std::int64_t b) {
    const int n = static_cast<int>(members.size());
    begin(2 * members.size());
    for (int i = 1; i < n; ++i) {
      const int to = (me + i) % n, from = (me + n - i) % n;
      if (const std::int64_t count = elements(to, b); count > 0)
        send(shared, members[static_cast<std::size_t>(to)], tag, bytes_of(x + offsets[static_cast<std::size_t>(to)] + b * kBlock, count));
      if (const std::int64_t count = elements(me, b); count > 0)
        receive(shared, members[static_cast<std::size_t>(from)], tag,
                std::as_writable_bytes(std::span(place(from, b), static_cast<std::size_t>(count))));
    }
  }

  bool next(Shared& shared) override {
    const std::int64_t b = block++, count = elements(me, b);
    if (block < blocks) post(shared, block);
    if (count > 0) {
      for (int r = 0; r < static_cast<int>(members.size()); ++r)
        parts[static_cast<std::size_t>(r)] = r == me ? x + offsets[static_cast<std::size_t>(me)] + b * kBlock : place(r, b);
      sum_in_order(std::span<const T* const>(parts), mine.subspan(static_cast<std::size_t>(b * kBlock), static_cast<std::size_t>(count)));
    }
    return block >= blocks;
  }
};

std::int64_t total(std::span<const std::int64_t> counts) { return std::accumulate(counts.begin(), counts.end(), std::int64_t{0}); }

}  // namespace

Request::Request(Request&& other) noexcept : shared_(other.shared_), operation_(std::exchange(other.operation_, nullptr)) {}

Request& Request::operator=(Request&& other) noexcept {
  std::swap(shared_, other.shared_);
  std::swap(operation_, other.operation_);
  return *this;
}

Request::~Request() {
  if (operation_ == nullptr) return;
  if (!std::exchange(shared_->lost, true))
    shared_->failure = std::make_exception_ptr(core::Error(core::Exit::distributed, "a message was given up before it was finished",
                                                           shared_->transport.name(shared_->transport.rank()), ""));
  shared_->transport.abandon();
}

bool Request::poll() {
  if (operation_ == nullptr) return true;
  if (!shared_->poll(*operation_)) return false;
  operation_ = nullptr;
  return true;
}

// Looks often while the others may be about to answer, then leaves the core to them: ranks may be more than cores.
void Request::wait() {
  constexpr int kLooks = 200;
  constexpr double kYielding = 2e-3;
  double begin = 0;
  if (poll()) return;
  Shared& shared = *shared_;
  const double waits_from = core::seconds_now(), exchanged = shared.times.exchange;
  for (int i = 0; !poll(); ++i) {
    if (i < kLooks) continue;
    if (operation_->since != begin) i = 0;  // something moved
    begin = operation_->since;
    if (operation_->checked - begin < kYielding) std::this_thread::yield();
    else std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  shared.times.waiting += core::seconds_now() - waits_from - (shared.times.exchange - exchanged);
}

Communicator::Communicator(Transport& transport, const Options& options)
    : shared_(std::make_shared<Shared>(Shared{transport, options})),
      members_(static_cast<std::size_t>(transport.size())),
      rank_(transport.rank()),
      context_(0) {
  std::iota(members_.begin(), members_.end(), 0);
}

Communicator::Communicator(std::shared_ptr<Shared> shared, std::vector<int> members, int rank, int context)
    : shared_(std::move(shared)), members_(std::move(members)), rank_(rank), context_(context) {}

Communicator::Communicator(Communicator&&) noexcept = default;
Communicator::~Communicator() = default;

std::string Communicator::name(int rank) const { return shared_->transport.name(members_[static_cast<std::size_t>(rank)]); }

int Communicator::tag(int kind) const { return context_ * kTags + kind; }

Communicator Communicator::split(int color, int key) {
  FB_CHECK(color >= 0, "color {}", color);
  struct Choice {
    int color, key, contexts;
  };
  std::vector<Choice> all(members_.size());
  const Choice mine{color, key, shared_->contexts};
  all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
  int context = 0;
  std::vector<int> ranks;
  for (int r = 0; r < size(); ++r) {
    context = std::max(context, all[static_cast<std::size_t>(r)].contexts);
    if (all[static_cast<std::size_t>(r)].color == color) ranks.push_back(r);
  }
  FB_CHECK(context < kContexts, "{} communicators", context);
  shared_->contexts = context + 1;  // parts of different colors share a number: no message crosses from one to another
  std::stable_sort(ranks.begin(), ranks.end(),
                   [&](int a, int b) { return all[static_cast<std::size_t>(a)].key < all[static_cast<std::size_t>(b)].key; });
  const int me = static_cast<int>(std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin());
  for (int& r : ranks) r = members_[static_cast<std::size_t>(r)];
  return {shared_, std::move(ranks), me, context};
}

Request Communicator::begin(Operation& operation) { return {*shared_, operation}; }

// In round k every rank hears from the one 2^k before it: then, of twice as many as before, that they have come.
void Communicator::barrier() {
  for (int distance = 1; distance < size(); distance *= 2) {
    Operation& o = shared_->take<Operation>(shared_->plain);
    o.begin(2);
    Request request = begin(o);
    o.send(*shared_, members_[static_cast<std::size_t>((rank_ + distance) % size())], tag(kBarrier), {});
    o.receive(*shared_, members_[static_cast<std::size_t>((rank_ + size() - distance) % size())], tag(kBarrier), {});
    request.wait();
  }
}

// A tree: of the ranks counted from the root, r hears from r without its highest bit.
void Communicator::broadcast(int root, std::span<std::byte> bytes) {
  const int n = size(), me = (rank_ + n - root) % n;
  const auto member = [&](int r) { return members_[static_cast<std::size_t>((r + root) % n)]; };
  int bit = 1;
  for (; bit <= me; bit *= 2) {
  }
  if (me > 0) {
    Operation& o = shared_->take<Operation>(shared_->plain);
    o.begin(1);
    Request request = begin(o);
    o.receive(*shared_, member(me - bit / 2), tag(kBroadcast), bytes);
    request.wait();
  }
  Operation& o = shared_->take<Operation>(shared_->plain);
  o.begin(32);
  Request request = begin(o);
  for (; me + bit < n; bit *= 2) o.send(*shared_, member(me + bit), tag(kBroadcast), bytes);
  request.wait();
}

Request Communicator::start_send(int to, int t, std::span<const std::byte> bytes) {
  FB_CHECK(t >= 0 && t < kUserTags && to >= 0 && to < size(), "tag {}, rank {}", t, to);
  Operation& o = shared_->take<Operation>(shared_->plain);
  o.begin(1);
  Request request = begin(o);
  o.send(*shared_, members_[static_cast<std::size_t>(to)], tag(t), bytes);
  return request;
}

Request Communicator::start_receive(int from, int t, std::span<std::byte> bytes) {
  FB_CHECK(t >= 0 && t < kUserTags && from >= 0 && from < size(), "tag {}, rank {}", t, from);
  Operation& o = shared_->take<Operation>(shared_->plain);
  o.begin(1);
  Request request = begin(o);
  o.receive(*shared_, members_[static_cast<std::size_t>(from)], tag(t), bytes);
  return request;
}

Request Communicator::start_all_to_all(std::span<const std::byte> send, std::span<const std::int64_t> send_counts,
                                       std::span<std::byte> receive, std::span<const std::int64_t> receive_counts) {
  const std::size_t n = members_.size();
  FB_CHECK(send_counts.size() == n && receive_counts.size() == n, "{} and {} counts for {} ranks", send_counts.size(),
           receive_counts.size(), n);
  FB_CHECK(
      total(send_counts) <= static_cast<std::int64_t>(send.size()) && total(receive_counts) <= static_cast<std::int64_t>(receive.size()),
      "counts of {} and {} bytes, buffers of {} and {}", total(send_counts), total(receive_counts), send.size(), receive.size());
  Operation& o = shared_->take<Operation>(shared_->plain);
  o.begin(2 * n);
  Request request = begin(o);
  // Each begins with itself and goes round, so that not all read the same rank's memory at once.
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t to = (static_cast<std::size_t>(rank_) + n - i) % n;
    if (send_counts[to] > 0)
      o.send(*shared_, members_[to], tag(kAllToAll),
             send.subspan(static_cast<std::size_t>(total(send_counts.first(to))), static_cast<std::size_t>(send_counts[to])));
  }
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t from = (static_cast<std::size_t>(rank_) + i) % n;
    if (receive_counts[from] > 0)
      o.receive(
          *shared_, members_[from], tag(kAllToAll),
          receive.subspan(static_cast<std::size_t>(total(receive_counts.first(from))), static_cast<std::size_t>(receive_counts[from])));
  }
  return request;
}

Request Communicator::start_all_gather(std::span<const std::byte> mine, std::span<const std::int64_t> counts, std::span<std::byte> all) {
  const std::size_t n = members_.size(), me = static_cast<std::size_t>(rank_);
  FB_CHECK(
      counts.size() == n && counts[me] == static_cast<std::int64_t>(mine.size()) && total(counts) == static_cast<std::int64_t>(all.size()),
      "{} bytes of {}, {} counts for {} ranks", mine.size(), all.size(), counts.size(), n);
  const auto part = [&](std::size_t r) {
    return all.subspan(static_cast<std::size_t>(total(counts.first(r))), static_cast<std::size_t>(counts[r]));
  };
  Operation& o = shared_->take<Operation>(shared_->plain);
  o.begin(2 * n);
  Request request = begin(o);
  for (std::size_t i = 1; i < n; ++i) {
    const std::size_t to = (me + n - i) % n, from = (me + i) % n;
    if (!mine.empty()) o.send(*shared_, members_[to], tag(kGather), mine);
    if (counts[from] > 0) o.receive(*shared_, members_[from], tag(kGather), part(from));
  }
  if (!mine.empty() && part(me).data() != mine.data()) std::memcpy(part(me).data(), mine.data(), mine.size());
  return request;
}

void Communicator::all_gather(std::span<const std::byte> mine, std::span<std::byte> all) {
  start_all_gather(mine, std::vector(members_.size(), static_cast<std::int64_t>(mine.size())), all).wait();
}

template <class T>
Request Communicator::reduce_scatter(std::span<const T> x, std::span<const std::int64_t> counts, std::span<float> mine) {
  const std::size_t n = members_.size(), me = static_cast<std::size_t>(rank_);
  FB_CHECK(
      counts.size() == n && counts[me] == static_cast<std::int64_t>(mine.size()) && total(counts) == static_cast<std::int64_t>(x.size()),
      "{} elements of {}, {} counts for {} ranks", mine.size(), x.size(), counts.size(), n);
  using Sum = ReduceScatter<T>;
  Sum& o = shared_->take<Sum>(std::is_same_v<T, float> ? shared_->float_sums : shared_->bf16_sums);
  o.x = x.data();
  o.counts.assign(counts.begin(), counts.end());
  o.offsets.resize(n);
  std::exclusive_scan(counts.begin(), counts.end(), o.offsets.begin(), std::int64_t{0});
  o.members = members_;
  o.me = rank_;
  o.tag = tag(kReduce);
  o.mine = mine;
  o.block = 0;
  o.blocks = (*std::max_element(counts.begin(), counts.end()) + kBlock - 1) / kBlock;
  o.parts.resize(n);
  for (auto& a : o.arrived) a.resize(std::max(a.size(), n * static_cast<std::size_t>(std::min(kBlock, counts[me]))));
  o.begin(0);
  Request request = begin(o);
  o.post(*shared_, 0);
  return request;
}

Request Communicator::start_reduce_scatter(std::span<const float> x, std::span<const std::int64_t> counts, std::span<float> mine) {
  return reduce_scatter(x, counts, mine);
}
Request Communicator::start_reduce_scatter(std::span<const numerics::bf16> x, std::span<const std::int64_t> counts, std::span<float> mine) {
  return reduce_scatter(x, counts, mine);
}

template <class T>
void Communicator::gather_and_sum(std::span<T> x) {
  std::vector<std::byte>& memory = shared_->gathered;  // aligned for any of the types, as every allocation is
  std::vector<const T*> parts(members_.size());
  for (std::size_t begin = 0; begin < x.size(); begin += kGatherMost) {
    const std::span<T> piece = x.subspan(begin, std::min(kGatherMost, x.size() - begin));
    memory.resize(std::max(memory.size(), members_.size() * piece.size_bytes()));
    all_gather(std::as_bytes(piece), std::span(memory).first(members_.size() * piece.size_bytes()));
    for (std::size_t r = 0; r < parts.size(); ++r)
      parts[r] = static_cast<const T*>(static_cast<const void*>(memory.data() + r * piece.size_bytes()));
    sum_in_order(std::span<const T* const>(parts), piece);
  }
}

void Communicator::all_reduce(std::span<float> x) {
  if (x.size() <= kGatherMost || size() == 1) return gather_and_sum(x);
  const auto n = static_cast<std::int64_t>(x.size()), ranks = static_cast<std::int64_t>(size());
  std::vector<std::int64_t> counts, bytes;
  for (std::int64_t r = 0; r < ranks; ++r) {
    counts.push_back(n * (r + 1) / ranks - n * r / ranks);
    bytes.push_back(counts.back() * static_cast<std::int64_t>(sizeof(float)));
  }
  const std::span<float> mine =
      x.subspan(static_cast<std::size_t>(n * rank_ / ranks), static_cast<std::size_t>(counts[static_cast<std::size_t>(rank_)]));
  start_reduce_scatter(x, counts, mine).wait();
  start_all_gather(std::as_bytes(mine), bytes, std::as_writable_bytes(x)).wait();
}
void Communicator::all_reduce(std::span<double> x) { gather_and_sum(x); }
void Communicator::all_reduce(std::span<std::int64_t> x) { gather_and_sum(x); }

std::span<std::byte> Communicator::shared_memory(std::int64_t bytes) {
  FB_CHECK(bytes > 0, "{} bytes", bytes);
  return shared_->transport.shared_memory(bytes);
}

void Communicator::set_phase(std::string_view phase) { shared_->transport.set_phase(phase); }

Times Communicator::times() const { return shared_->times; }

bool Communicator::has_plain_all_to_all() const { return shared_->transport.has_plain_all_to_all(); }
void Communicator::plain_all_to_all(std::span<const std::byte> send, std::span<std::byte> receive) {
  shared_->transport.plain_all_to_all(send, receive);
}
std::string Communicator::transport_name() const { return shared_->transport.kind(); }

void Communicator::progress(void* communicator) noexcept {
  Shared& shared = *static_cast<Communicator*>(communicator)->shared_;
  if (shared.failure) return;
  try {
    shared.progress();
  } catch (...) {
    shared.failure = std::current_exception();
  }
}

}  // namespace finback::comm
