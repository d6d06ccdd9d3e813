#include "data/synthetic.h"

#include "core/error.h"
#include "data/stream.h"

#include <gtest/gtest.h>

#include <map>

namespace finback::data {
namespace {

StreamOptions options() {
  StreamOptions o;
  o.seq_len = 256, o.vocab_size = 1000, o.seed = 3;
  return o;
}

TEST(Synthetic, APositionAloneSaysWhatStandsThere) {
  const std::vector<std::string> paths{kSynthetic};
  Stream stream(paths, {}, options());
  std::vector<std::int32_t> x(1024), y(1024), part(256), target(256);
  stream.fill(5, x, y);
  stream.fill(7, part, target);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), x.begin() + 512));
  EXPECT_TRUE(std::equal(target.begin(), target.end(), y.begin() + 512));
  EXPECT_TRUE(std::equal(part.begin() + 1, part.end(), target.begin()));
  EXPECT_FALSE(std::equal(part.begin(), part.end(), x.begin()));
}

// Who knows the two tokens before and the shift knows nine tokens of ten.
TEST(Synthetic, IsLearnableAndNotCertain) {
  std::int64_t followed = 0, all = 0;
  for (std::int64_t position = 0; position < 20; ++position) {
    std::vector<std::int32_t> x(256), y(256);
    fill_synthetic(1, 1000, position, x, y);
    std::map<std::int32_t, int> shifts;
    for (std::size_t i = 1; i < y.size(); ++i) {
      EXPECT_GE(y[i], 0);
      EXPECT_LT(y[i], 1000);
      ++shifts[y[i] - x[i] % 64 * 5 - x[i - 1] % 8];
      ++all;
    }
    int most = 0;
    for (const auto& [shift, count] : shifts) most = std::max(most, count);
    followed += most;
  }
  EXPECT_NEAR(static_cast<double>(followed) / static_cast<double>(all), 0.9, 0.02);
}

TEST(Synthetic, StandsAlone) {
  const std::vector<std::string> two{kSynthetic, "data.bin"}, one{kSynthetic};
  EXPECT_THROW(Stream(two, {}, options()), core::Error);
  StreamOptions o = options();
  o.fim_rate = 0.5, o.fim = {2, 3, 4};
  EXPECT_THROW(Stream(one, {}, o), core::Error);
}

}  // namespace
}  // namespace finback::data
