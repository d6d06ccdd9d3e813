// A thread that does one job over and over, when it is told to, beside the thread that tells it. Signals are left to the other threads.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace finback::core {

class Background {
 public:
  explicit Background(std::function<void()> job);  // which throws nothing
  ~Background();                                   // after the job under way
  Background(const Background&) = delete;

  void start();  // the job, once. The one before must be done
  void wait();   // until it is done

 private:
  void work();

  const std::function<void()> job_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool busy_ = false, stop_ = false;
  std::thread thread_;  // last: starts when all else stands
};

}  // namespace finback::core
