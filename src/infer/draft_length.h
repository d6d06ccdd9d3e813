// How many tokens to guess ahead: whatever has given the most tokens a second lately. On a CPU a second token in a step is not free, since
// it meets experts of its own, and what a guess is worth depends on the text; so both are measured together. Answers do not depend on it.
#pragma once

#include <cstdint>
#include <vector>

namespace finback::infer {

class DraftLength {
 public:
  explicit DraftLength(std::int64_t most);
  // For the next step of so many answers.
  std::int64_t choose(std::int64_t answers);
  // A step that verified `length` guesses an answer took so long and gave so many tokens.
  void observe(std::int64_t answers, std::int64_t length, std::int64_t tokens, double seconds);

 private:
  struct Rate {
    double tokens = 0, seconds = 0;  // the last of some dozens of steps, older ones weighing less
    bool seen = false;
  };
  struct Load {               // answers between two powers of two
    std::vector<Rate> rates;  // of each length
    std::int64_t turn = 0;
  };
  Load& load(std::int64_t answers);

  std::int64_t most_;
  std::vector<Load> loads_;
};

}  // namespace finback::infer
