// A request's inside: messages, and what to do when all of them have arrived.
#pragma once

#include "comm/communicator.h"
#include "core/clock.h"

#include <exception>
#include <memory>
#include <vector>

namespace finback::comm {

struct Operation {
  virtual ~Operation() = default;
  // All messages are finished. True: so is the operation; else it has sent more.
  virtual bool next(Shared&) { return true; }

  void begin(std::size_t messages);  // room for so many
  void send(Shared& shared, int to, int tag, std::span<const std::byte> bytes);
  void receive(Shared& shared, int from, int tag, std::span<std::byte> bytes);
  bool advance(Shared& shared);

  struct Message {
    Ticket content, sum;  // −1: none, or finished
    int peer;
    std::span<const std::byte> received;  // to be verified
    std::uint64_t checksum;
    std::int64_t on_link;  // bytes that come through the simulated link; −1: none
    double arrival = 0;    // by it
  };
  std::vector<Message> messages;
  std::size_t open = 0;  // the first message that may be unfinished
  bool in_use = false;
  double since = 0;  // of the first poll in which nothing moved; 0: not yet
  double checked = 0;
  double arrival = 0;  // of the last message
};

struct Shared {
  Transport& transport;
  Options options;
  int contexts = 1;
  std::exception_ptr failure;                                            // met where nothing may be thrown
  std::vector<std::unique_ptr<Operation>> plain, float_sums, bf16_sums;  // operations, of one type each, kept for the next
  std::vector<std::byte> gathered;
  bool lost = false;  // an error was thrown, or a request went unfinished
  Times times;

  template <class T>
  T& take(std::vector<std::unique_ptr<Operation>>& pool) {
    for (auto& o : pool)
      if (!o->in_use) return static_cast<T&>(*o);
    pool.push_back(std::make_unique<T>());
    return static_cast<T&>(*pool.back());
  }
  bool progress();
  // When a message that is here now has come through the simulated link, behind those before it.
  double through_link(std::int64_t bytes);
  double link_free = 0;
  // True once the operation is finished, which then is free again.
  bool poll(Operation& operation);
};

}  // namespace finback::comm
