#include "train/ema.h"

#include "tests/train/tiny_model.h"

#include <gtest/gtest.h>

namespace finback::train {
namespace {

TEST(Ema, FollowsTheMasters) {
  const model::ParameterList list = model::list_parameters(tiny_model());
  core::Arena arena("masters", 16 << 20);
  const model::SlabBuffers masters = model::take_slabs(arena, list, core::DType::f32);
  const auto set = [&](float x) {
    for (const core::Mat& m : masters.slabs) std::fill(m.row<float>(0), m.row<float>(0) + m.size(), x);
  };
  Ema ema(list, masters, 0.75);
  set(4);
  ema.restart();
  double expected = 4;
  for (const float x : {8.0F, 0.0F, -4.0F}) {
    set(x);
    ema.start();
    ema.wait();
    expected = 0.75 * expected + 0.25 * x;
    for (const core::Mat& mean : ema.values().slabs)
      for (std::int64_t i = 0; i < mean.size(); ++i) ASSERT_EQ(mean.row<float>(0)[i], static_cast<float>(expected));
  }
}

}  // namespace
}  // namespace finback::train
