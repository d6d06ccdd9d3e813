// The ceilings must be above what the kernels reach, and in proportion to each other.
#include "measure/ceiling.h"

#include "core/arena.h"
#include "kernels/kernels.h"
#include "kernels/probe.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

namespace finback::measure {
namespace {

TEST(Ceiling, EveryRateIsMeasured) {
  core::Team team(1);
  const Ceiling c = ceiling(team, 0.05);
  EXPECT_GT(c.fp32_gflops, 0.1);
  EXPECT_GT(c.bf16_gflops, 0.1);
  EXPECT_GT(c.int8_gops, 0.1);
  EXPECT_GT(c.memory_gb_per_s, 0.1);
  EXPECT_GT(c.cache_gb_per_s, 0.1);
}

// What a probe reads is all that it says: every pattern's digest is that of a plain loop.
TEST(Ceiling, EveryPatternReadsAllBytes) {
  std::vector<std::uint32_t> storage(3 * 4096 / 4 + 16);
  std::uint32_t* data = storage.data();
  while (reinterpret_cast<std::uintptr_t>(data) % 64 != 0) ++data;
  std::uint32_t want = 0;
  for (std::uint32_t i = 0; i < 3 * 1024; ++i) want ^= data[i] = i * 2654435761u + 12345;
  for (std::string_view isa : kernels::runnable())
    for (int streams : {1, 2, 4})
      for (std::int64_t prefetch : {0, 1024})
        EXPECT_EQ(kernels::probe(isa).read(data, 3 * 4096, streams, prefetch), want) << isa << " " << streams << " " << prefetch;
}

TEST(Ceiling, MovesAllBytesOfEveryPart) {
  constexpr std::size_t kWords = 1024;  // 4096 bytes
  for (std::string_view isa : kernels::runnable())
    for (const auto& [read, updated, written] : {std::array<std::size_t, 3>{3, 1, 2}, {0, 2, 5}, {7, 0, 0}, {1, 4, 0}}) {
      core::Arena arena("parts", 16 * 4096);
      auto* parts = arena.take_array<std::uint32_t>(16 * kWords);
      std::uint32_t want = 0;
      for (std::uint32_t i = 0; i < 16 * kWords; ++i) {
        parts[i] = i * 2654435761u;
        if (i < read * kWords) want ^= parts[i];
      }
      std::uint32_t *both = parts + read * kWords, *out = both + updated * kWords, *end = out + written * kWords;
      EXPECT_EQ(kernels::probe(isa).move(parts, read * 4096, both, updated * 4096, out, written * 4096, 512), want) << isa;
      for (std::uint32_t* p = parts; p < parts + 16 * kWords; ++p) {
        const auto before = static_cast<std::uint32_t>(p - parts) * 2654435761u;
        const bool is_updated = p >= both && p < out, is_written = p >= out && p < end;
        ASSERT_EQ(*p, is_updated ? before ^ 1 : is_written ? 1 : before) << isa << " word " << p - parts;
      }
    }
}

}  // namespace
}  // namespace finback::measure
