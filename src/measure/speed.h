// Rates of several things measured in turn, burst by burst, so that all of them see the same disturbances.
#pragma once

#include "core/tensor.h"

#include <functional>
#include <vector>

namespace finback::measure {

double median(std::vector<double> values);  // at least one

// Something whose rate is asked for again and again: works for about `seconds`, at least once, and returns 10^9 a second.
using Contender = std::function<double(double seconds)>;

// A contender that makes call(), each doing `amount`, back to back. Where calls are short against a burst, the first of a burst is not
// counted: it finds the caches as the contender before left them.
Contender repeated(double amount, std::function<void()> call);

// rates[c][round] of contender c. At least five rounds of bursts of `burst` seconds, and about `seconds` for each contender.
std::vector<std::vector<double>> in_turn(const std::vector<Contender>& contenders, double burst, double seconds);

// Small numbers that neither overflow nor become denormal; their values are of no interest. f32 or bf16.
void fill(core::Mat m);

}  // namespace finback::measure
