// A bit that flips on its way, with and without checksums: a transport that changes one message.
#include "comm/communicator.h"
#include "comm/inbox.h"
#include "comm/memory_transport.h"

#include <gtest/gtest.h>

#include <thread>

namespace finback::comm {
namespace {

// Copies like OwnMemory, and changes one bit of what is copied last.
class Flipping final : public Reach {
 public:
  explicit Flipping(bool flip) : flip_(flip) {}
  Place place(std::span<const std::byte> bytes) override { return memory_.place(bytes); }
  void release(const Place&) override {}
  void copy(int from, const Place& place, std::int64_t begin, std::span<std::byte> to) override {
    memory_.copy(from, place, begin, to);
    if (flip_) to[to.size() / 2] ^= std::byte{4};
  }
  std::span<std::byte> shared_memory(std::int64_t bytes) override { return memory_.shared_memory(bytes); }
  bool alive(int) override { return true; }

 private:
  OwnMemory memory_;
  bool flip_;
};

// What rank 1 says of an exchange in which the copies that it makes are changed.
std::string exchange(bool flip, bool checksums) {
  std::vector<std::byte> memory(2 * Inbox::bytes(2) + 64);
  void* begin = memory.data();
  std::size_t room = memory.size();
  auto* aligned = static_cast<std::byte*>(std::align(64, 2 * Inbox::bytes(2), begin, room));
  const std::vector<Inbox> inboxes = {Inbox::make(aligned, 2), Inbox::make(aligned + Inbox::bytes(2), 2)};
  std::string said = "nothing";
  const auto rank = [&](int r) {
    Flipping reach(flip && r == 1);
    MemoryTransport transport(r, inboxes, {"rank 0 on a", "rank 1 on b"}, reach, 30);
    try {
      Communicator c(transport, {.timeout = 30, .checksums = checksums});
      std::vector<std::byte> out(300000, static_cast<std::byte>(r)), in(300000);
      const std::vector<std::int64_t> counts(2, 150000);
      c.start_all_to_all(out, counts, in, counts).wait();
      c.barrier();
    } catch (const core::Error& e) {
      if (r == 1) said = e.what();
      transport.fail(e.code(), e.what());
    }
    transport.abandon();
  };
  std::thread other(rank, 0);
  rank(1);
  other.join();
  return said;
}

TEST(Checksums, AFlippedBitIsFound) {
  EXPECT_EQ(exchange(false, true), "nothing");
  EXPECT_EQ(exchange(true, false), "nothing");
  const std::string text = exchange(true, true);
  EXPECT_NE(text.find("a message of 150000 bytes changed on its way from rank "), std::string::npos) << text;
  EXPECT_NE(text.find(" to rank 1 on b"), std::string::npos) << text;
}

}  // namespace
}  // namespace finback::comm
