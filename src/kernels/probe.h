// The innermost instructions by themselves: what a machine reaches when nothing else stands in the way. measure/ceiling.h runs them.
#pragma once

#include <cstdint>
#include <string_view>

namespace finback::kernels {

struct Probe {
  // `rounds` rounds of independent chains of multiply-adds; returns how many operations that was (2 a multiply-add). Where no
  // instruction multiplies pairs of bf16 or quadruples of int8, the fastest way around it that the instruction set has.
  double (*fp32)(std::int64_t rounds);
  double (*bf16)(std::int64_t rounds);
  double (*int8)(std::int64_t rounds);
  // Reads `bytes` (a multiple of 4096) once, as `streams` (1, 2 or 4) runs side by side, `prefetch` bytes ahead (0: the
  // hardware alone); returns a digest so that nothing is left out.
  std::uint32_t (*read)(const void* data, std::int64_t bytes, int streams, std::int64_t prefetch);
  // What a function does that reads some bytes, reads and writes others in place and writes others still, all three at once and in
  // proportion, as a kernel does whose result is read next. Each is a multiple of 4096 or 0; `prefetch` as above, for what is read.
  std::uint32_t (*move)(const void* read, std::int64_t read_bytes, void* updated, std::int64_t updated_bytes, void* written,
                        std::int64_t written_bytes, std::int64_t prefetch);
};

// Of a table's instruction set (kernels.h); throws Error(usage) as by_name does. "reference" has none: it is portable's.
const Probe& probe(std::string_view isa);

}  // namespace finback::kernels
