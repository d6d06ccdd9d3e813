// Which ranks are slow, told from where each one's time goes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace finback::train {

// Of a step, in seconds.
struct RankTime {
  double compute = 0, waiting = 0, exchange = 0;
  double total() const { return compute + waiting + exchange; }
};

// A rank is slow if over kSteps steps it computes kSlow times as long as the median of those that do the same work.
class Stragglers {
 public:
  static constexpr int kSteps = 20;
  static constexpr double kSlow = 1.5;

  // work [ranks]: ranks with the same number do the same. Those alone in theirs are compared with all.
  explicit Stragglers(std::vector<int> work);

  struct Slow {
    int rank;
    double of_median;  // its compute over the median's
    RankTime time;     // a step's mean
  };
  // Takes a step's times [ranks]; after every kSteps of them the slow ranks since, else nothing.
  std::vector<Slow> add(std::span<const RankTime> times);

 private:
  std::vector<int> work_;
  std::vector<RankTime> sums_;
  int steps_ = 0;
};

// "rank 3 on node7 computes 2.1 times as long as the others: 84 % of its time in compute, 11 % waiting, 5 % in exchange"
std::string describe(const Stragglers::Slow& slow, const std::string& name);

}  // namespace finback::train
