// Where the marks of a chart's axis stand: round values (1, 2 or 5 times a power of ten), labelled alike.
#pragma once

#include <string>
#include <vector>

namespace finback::formats {

struct Tick {
  double value = 0;
  std::string label;
};

struct Axis {
  double low = 0, high = 1;
  bool log = false;
  std::vector<Tick> ticks;
  // Where a value lies from low (0) to high (1).
  double position(double value) const;
};

// Covers [low, high] with about `marks` ticks. `round_out` widens the ends to ticks; without it they stay as they are.
Axis linear_axis(double low, double high, int marks, bool round_out);
// low > 0. Decades, and 2 and 5 times them where there are few.
Axis log_axis(double low, double high, int marks);

// A number for people: at most four significant digits, thousands as "12k", "3.4M", "1.2B", small ones as "2e-5".
std::string short_number(double value);

}  // namespace finback::formats
