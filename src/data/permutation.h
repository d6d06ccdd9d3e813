// A random order of 0 … size-1 as a pure function: no table to build, keep or save.
#pragma once

#include <array>
#include <cstdint>

namespace finback::data {

// A Feistel network over the smallest even number of bits that holds `size`, walked until it lands inside (Black and Rogaway,
// "Ciphers with Arbitrary Finite Domains", 2002). The same (size, key) gives the same order everywhere.
class Permutation {
 public:
  Permutation(std::uint64_t size, std::uint64_t key);  // 1 ≤ size ≤ 2^62
  std::uint64_t operator()(std::uint64_t index) const;
  std::uint64_t size() const { return size_; }

 private:
  std::uint64_t size_;
  std::array<std::uint32_t, 2> key_;
  unsigned half_bits_;
};

}  // namespace finback::data
