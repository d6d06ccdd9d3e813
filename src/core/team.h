// A persistent team of threads that runs one set of tasks at a time. Results never depend on the number of threads:
// tasks are independent, and whoever writes a task decides what one task is from sizes alone.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace finback::core {

class Team {
 public:
  // threads ≥ 1, the caller counted. Workers are pinned when `pin` and the machine has that many cores.
  explicit Team(int threads, bool pin = false);
  ~Team();
  Team(const Team&) = delete;

  int threads() const { return threads_; }

  // Runs fn(argument, task, thread) for task = 0 … tasks-1 and returns when all are done. Tasks are handed out in
  // order, one at a time. Called by the owner thread only; not re-entrant. A plain function pointer, so that a kernel
  // compiled for one instruction set can use it without instantiating a template.
  using Task = void (*)(void* argument, std::int64_t task, int thread);
  void run(std::int64_t tasks, Task fn, void* argument);

  // Called by the owner thread between tasks (to move messages forward, say). Null: nothing.
  void set_poll(void (*poll)(void*), void* argument) {
    poll_ = poll;
    poll_argument_ = argument;
  }

 private:
  struct State;
  void work(int thread);
  int threads_;
  void (*poll_)(void*) = nullptr;
  void* poll_argument_ = nullptr;
  std::unique_ptr<State> state_;
};

// body(task) or body(task, thread) for task = 0 … tasks-1, without allocation.
template <class Body>
void parallel_for(Team& team, std::int64_t tasks, Body&& body) {
  using B = std::remove_reference_t<Body>;
  team.run(
      tasks,
      [](void* argument, std::int64_t task, int thread) {
        B& b = *static_cast<B*>(argument);
        if constexpr (std::is_invocable_v<B&, std::int64_t, int>) b(task, thread);
        else b(task);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace finback::core
