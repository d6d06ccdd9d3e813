#include "parallel/stages.h"

#include "tests/model/odd_shape.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <random>

namespace finback::parallel {
namespace {

// The best by trying all cuts.
std::pair<double, double> best_of_all(const std::vector<double>& cost, int parts) {
  const auto n = static_cast<int>(cost.size());
  std::pair best{1e300, 1e300};
  std::vector<int> first(static_cast<std::size_t>(parts) + 1, 0);
  first.back() = n;
  const std::function<void(int)> place = [&](int part) {
    if (part == parts) {
      if (first[static_cast<std::size_t>(parts - 1)] >= n) return;
      std::pair now{0.0, 0.0};
      for (int p = 0; p < parts; ++p) {
        const double sum =
            std::accumulate(cost.begin() + first[static_cast<std::size_t>(p)], cost.begin() + first[static_cast<std::size_t>(p + 1)], 0.0);
        now = {std::max(now.first, sum), now.second + sum * sum};
      }
      best = std::min(best, now);
      return;
    }
    for (int from = std::max(1, first[static_cast<std::size_t>(part - 1)]); from <= n; ++from) {
      first[static_cast<std::size_t>(part)] = from;
      place(part + 1);
    }
  };
  place(1);
  return best;
}

TEST(CutEvenly, IsTheBestOfAllCuts) {
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    std::vector<double> cost(std::uniform_int_distribution<std::size_t>(2, 7)(random));
    for (double& c : cost) c = std::uniform_int_distribution(0, 6)(random);
    const int parts = std::uniform_int_distribution(1, 5)(random);
    const std::vector<int> first = cut_evenly(cost, parts);
    ASSERT_EQ(first.size(), static_cast<std::size_t>(parts) + 1);
    ASSERT_EQ(first.front(), 0);
    ASSERT_EQ(first.back(), static_cast<int>(cost.size()));
    ASSERT_TRUE(std::is_sorted(first.begin(), first.end()));
    std::pair got{0.0, 0.0};
    for (std::size_t p = 0; p < static_cast<std::size_t>(parts); ++p) {
      const double sum = std::accumulate(cost.begin() + first[p], cost.begin() + first[p + 1], 0.0);
      got = {std::max(got.first, sum), got.second + sum * sum};
    }
    EXPECT_EQ(got, best_of_all(cost, parts));
    if (parts > 1) {  // the first piece is in the first part, the last in the last
      EXPECT_GT(first[1], 0);
      EXPECT_LT(first[static_cast<std::size_t>(parts - 1)], static_cast<int>(cost.size()));
    }
  }
}

TEST(Stages, HaveTheEndsOfTheModelAtTheirEnds) {
  const model::ModelConfig config = model::odd_shape();
  const model::ParameterList list = model::list_parameters(config);
  for (int stages = 1; stages <= 8; ++stages) {  // 3 blocks: some are empty
    const Stages cut = cut_stages(config, 16, stages);
    ASSERT_EQ(cut.count(), stages);
    ASSERT_EQ(cut.main_blocks(), 3);
    ASSERT_EQ(cut.first_block[0], 0);
    int before = 0;
    for (const model::Slab& s : list.slabs) {
      const int stage = cut.of(s);
      ASSERT_GE(stage, 0);
      ASSERT_LT(stage, stages);
      if (s.role == model::Role::embedding) {
        EXPECT_EQ(stage, 0);
      } else if (s.layer < 0 || s.layer >= 3) {
        EXPECT_EQ(stage, stages - 1) << s.name;
      } else {
        EXPECT_GE(s.layer, cut.first_block[static_cast<std::size_t>(stage)]);
        EXPECT_LT(s.layer, cut.first_block[static_cast<std::size_t>(stage) + 1]);
        EXPECT_GE(stage, before);
        before = stage;
      }
    }
  }
}

// Over the stages and the ranks of an expert group every parameter stands once, whole, in the slab of its kind.
TEST(Stages, PartsAddUpToTheList) {
  const model::ParameterList all = model::list_parameters(model::odd_shape());
  const Stages cut = cut_stages(model::odd_shape(), 16, 3);
  for (const int ep : {1, 2, 8}) {
    std::map<std::string, int> found;
    std::int64_t elements = 0;
    for (int stage = 0; stage < 3; ++stage)
      for (int e = 0; e < ep; ++e) {
        const model::ParameterList part = parameters_on(all, cut, std::vector{stage}, ep, e);
        std::vector<std::int64_t> filled(part.slabs.size());
        for (const model::Parameter& p : part.parameters) {
          const model::Slab& slab = part.slabs[static_cast<std::size_t>(p.slab)];
          const auto whole = std::find_if(all.parameters.begin(), all.parameters.end(), [&](const auto& w) { return w.name == p.name; });
          ASSERT_NE(whole, all.parameters.end());
          const model::Slab& of = all.slabs[static_cast<std::size_t>(whole->slab)];
          EXPECT_EQ(slab.role, of.role);
          EXPECT_EQ(slab.layer, of.layer);
          EXPECT_EQ(slab.cols, of.cols);
          EXPECT_EQ(slab.parts, of.parts);
          EXPECT_EQ(p.shape, whole->shape);
          EXPECT_LE(p.row + p.rows, slab.groups * slab.rows);
          EXPECT_EQ(p.row % slab.rows, whole->row % of.rows);
          filled[static_cast<std::size_t>(p.slab)] += p.size();
          ++found[p.name];
          if (slab.role == model::Role::expert || e == 0) elements += p.size();
        }
        for (std::size_t s = 0; s < filled.size(); ++s) {
          EXPECT_EQ(filled[s], part.slabs[s].size()) << part.slabs[s].name;
          const auto first = std::find_if(part.parameters.begin(), part.parameters.end(),
                                          [&](const auto& p) { return p.slab == static_cast<int>(s) && p.row == 0; });
          EXPECT_EQ(part.slabs[s].name, first->name);
        }
      }
    EXPECT_EQ(elements, all.total());
    for (const model::Parameter& p : all.parameters) {
      const bool expert = all.slabs[static_cast<std::size_t>(p.slab)].role == model::Role::expert;
      EXPECT_EQ(found[p.name], expert ? 1 : ep) << p.name;
    }
  }
}

}  // namespace
}  // namespace finback::parallel
