#include "comm/threads.h"

#include "comm/host.h"
#include "comm/memory_transport.h"
#include "core/log.h"

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>

namespace finback::comm {
namespace {

struct World {
  std::vector<Inbox> inboxes;
  std::vector<std::string> names;
  std::mutex mutex;
  std::condition_variable changed;
  int running = 0;
  std::exception_ptr failure;
  std::string text;  // of the failure
};

void run_rank(World& world, int rank, const Options& options, const std::function<void(Communicator&)>& body) {
  OwnMemory memory;
  MemoryTransport transport(rank, world.inboxes, world.names, memory, options.timeout);
  const auto fail = [&](core::Exit code, const std::string& text, std::exception_ptr failure) {
    if (transport.claim()) {
      const std::lock_guard lock(world.mutex);
      world.failure = std::move(failure);
      world.text = text;
    }
    transport.fail(code, text);
  };
  try {
    Communicator communicator(transport, options);
    body(communicator);
    communicator.set_phase("end");
    communicator.barrier();
  } catch (const core::Error& e) {
    const std::string text = with_rank(e, transport);
    fail(e.code(), text, std::make_exception_ptr(core::Error(e.code(), text, "", "")));
  } catch (const std::exception& e) {
    fail(core::Exit::failed, e.what(), std::current_exception());
  }
  transport.abandon();  // its shared memory goes
}

}  // namespace

void run_threads(int ranks, const Options& options, const std::function<void(Communicator&)>& body) {
  FB_CHECK(ranks >= 1, "{} ranks", ranks);
  World world;
  const std::string host = host_name();
  core::Arena memory("inboxes", static_cast<std::int64_t>(Inbox::bytes(ranks)) * ranks);
  for (int r = 0; r < ranks; ++r) {
    world.inboxes.push_back(Inbox::make(static_cast<std::byte*>(memory.take(static_cast<std::int64_t>(Inbox::bytes(ranks)))), ranks));
    world.names.push_back(fmt::format("rank {} on {}", r, host));
  }
  std::vector<std::thread> threads;
  world.running = ranks;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      run_rank(world, r, options, body);
      const std::lock_guard lock(world.mutex);
      --world.running;
      world.changed.notify_all();
    });
  {
    std::unique_lock lock(world.mutex);
    world.changed.wait(lock, [&] { return world.running == 0 || world.failure; });
    if (!world.changed.wait_for(lock, std::chrono::duration<double>(options.timeout), [&] { return world.running == 0; })) {
      core::log_line(fmt::format("error: {}", world.text));
      std::_Exit(static_cast<int>(core::Exit::distributed));
    }
  }
  for (std::thread& t : threads) t.join();
  if (world.failure) std::rethrow_exception(world.failure);
}

}  // namespace finback::comm
