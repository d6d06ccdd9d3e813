#include "parallel/schedule.h"

#include "core/error.h"

#include <gtest/gtest.h>

#include <string>

namespace finback::parallel {
namespace {

// One letter an action, a pair in brackets; small letters for the second stream. I: backward to the input alone.
std::string letters(const Schedule& s, int rank) {
  std::string text;
  const auto add = [&](char letter, const Cell& cell) {
    text += s.direction_of(cell) == 0 ? letter : static_cast<char>(letter - 'A' + 'a');
    text += std::to_string(cell.micro_batch);
  };
  for (const Action& a : s.actions[static_cast<std::size_t>(rank)]) {
    if (!text.empty()) text += ' ';
    switch (a.work) {
      case Work::forward:
        add('F', a.forward);
        break;
      case Work::backward:
        add('B', a.backward);
        break;
      case Work::backward_input:
        add('I', a.backward);
        break;
      case Work::backward_weight:
        add('W', a.backward);
        break;
      case Work::pair:
        text += '(';
        add('F', a.forward);
        add('B', a.backward);
        text += ')';
    }
  }
  return text;
}

// The lists of the papers' figures, written out by hand.
TEST(Schedule, OneForwardOneBackward) {
  const Schedule s = make_schedule(ScheduleKind::one_f_one_b, 3, 4);
  EXPECT_EQ(letters(s, 0), "F0 F1 F2 B0 F3 B1 B2 B3");
  EXPECT_EQ(letters(s, 1), "F0 F1 B0 F2 B1 F3 B2 B3");
  EXPECT_EQ(letters(s, 2), "F0 B0 F1 B1 F2 B2 F3 B3");
}

TEST(Schedule, ZeroBubblePutsOffTheWeights) {
  const Schedule s = make_schedule(ScheduleKind::zb1p, 3, 4);
  EXPECT_EQ(letters(s, 0), "F0 F1 F2 I0 W0 F3 I1 W1 I2 W2 I3 W3");
  EXPECT_EQ(letters(s, 1), "F0 F1 I0 F2 I1 W0 F3 I2 W1 I3 W2 W3");
  EXPECT_EQ(letters(s, 2), "F0 I0 F1 I1 F2 I2 W0 F3 I3 W1 W2 W3");
}

// Ranks 0 and 3 of the picture in the README of deepseek-ai/DualPipe, 8 ranks and 20 micro-batches: the numbers of the
// other direction stand there from 0.
TEST(Schedule, DualPipeIsThePublishedPicture) {
  const Schedule s = make_schedule(ScheduleKind::dualpipe, 8, 20);
  EXPECT_EQ(letters(s, 0),
            "F0 F1 F2 F3 F4 F5 F6 f10 i10 w10 f11 i11 w11 f12 i12 w12 f13 (F7b13) (f14B0) (F8b14) (f15B1) (F9b15) (f16B2) b16 (f17B3) "
            "b17 (f18B4) b18 (f19B5) b19 I6 W6 I7 W7 I8 W8 I9 W9");
  EXPECT_EQ(letters(s, 3),
            "F0 f10 F1 f11 F2 f12 F3 f13 F4 b10 (f14B0) (F5b11) (f15B1) (F6b12) (f16B2) (F7b13) (f17B3) (F8b14) (f18B4) (F9b15) (f19B5) "
            "b16 B6 b17 B7 i18 I8 i19 I9 w18 W8 w19 W9");
  for (std::size_t r = 0; r < 4; ++r) {  // the other half is its mirror image
    const auto &near = s.actions[r], &far = s.actions[7 - r];
    ASSERT_EQ(near.size(), far.size());
    const auto mirrored = [](Cell c) { return c.stage < 0 ? c : Cell{c.stage, (c.micro_batch + 10) % 20}; };
    for (std::size_t i = 0; i < near.size(); ++i) {
      EXPECT_EQ(near[i].work, far[i].work);
      EXPECT_EQ(mirrored(near[i].forward), far[i].forward);
      EXPECT_EQ(mirrored(near[i].backward), far[i].backward);
    }
  }
}

TEST(Schedule, DualPipeVIsItsHalf) {
  const Schedule s = make_schedule(ScheduleKind::dualpipev, 2, 4);
  EXPECT_EQ(letters(s, 0), "F0 F1 F2 f0 i0 w0 f1 (F3b1) (f2B0) b2 (f3B1) b3 I2 W2 I3 W3");
  EXPECT_EQ(letters(s, 1), "F0 f0 F1 f1 F2 b0 (f2B0) (F3b1) (f3B1) b2 B2 i3 I3 w3 W3");
}

TEST(Schedule, WithFewMicroBatchesTheMissingOnesAreLeftOut) {
  const Schedule s = make_schedule(ScheduleKind::dualpipe, 4, 4);
  EXPECT_EQ(letters(s, 0), "F0 F1 f2 i2 w2 f3 b3 B0 B1");
  EXPECT_EQ(letters(s, 1), "F0 f2 F1 f3 b2 B0 b3 B1");
}

TEST(Schedule, KnowsWhereAProductGoes) {
  const Schedule dual = make_schedule(ScheduleKind::dualpipe, 4, 8), v = make_schedule(ScheduleKind::dualpipev, 2, 4);
  EXPECT_EQ(dual.rank_of({1, 3}), 1);
  EXPECT_EQ(dual.rank_of({1, 4}), 2);
  EXPECT_EQ(v.rank_of({1, 0}), 1);
  EXPECT_EQ(v.rank_of({2, 0}), 1);
  EXPECT_EQ(v.rank_of({3, 0}), 0);
  const Action pair{.work = Work::pair, .forward = {1, 6}, .backward = {2, 1}};
  std::vector<Product> needs, makes;
  for (const Product& p : dual.needs(pair)) needs.push_back(p);
  for (const Product& p : dual.makes(pair)) makes.push_back(p);
  EXPECT_EQ(needs, (std::vector<Product>{{false, {0, 6}}, {false, {2, 1}}, {true, {3, 1}}}));
  EXPECT_EQ(makes, (std::vector<Product>{{false, {1, 6}}, {true, {2, 1}}}));
}

TEST(Schedule, RefusalsSayWhy) {
  const auto refuses = [](ScheduleKind kind, int ranks, int micro_batches, const char* reason) {
    try {
      make_schedule(kind, ranks, micro_batches);
      ADD_FAILURE() << name_of(kind) << " " << ranks << " × " << micro_batches;
    } catch (const core::Error& e) {
      EXPECT_EQ(e.code(), core::Exit::usage);
      EXPECT_NE(std::string(e.what()).find(reason), std::string::npos) << e.what();
    }
  };
  refuses(ScheduleKind::dualpipe, 3, 8, "even number of ranks");
  refuses(ScheduleKind::dualpipe, 1, 8, "even number of ranks");
  refuses(ScheduleKind::dualpipe, 4, 7, "even number of micro-batches");
  for (const ScheduleKind kind : kScheduleKinds) {
    refuses(kind, 0, 8, "at least one");
    refuses(kind, 2, -1, "at least one");
    refuses(kind, 1 << 12, 1 << 12, "larger micro-batches");
    EXPECT_EQ(schedule_kind_of(name_of(kind)), kind);
  }
  EXPECT_THROW(schedule_kind_of("gpipe"), core::Error);
}

}  // namespace
}  // namespace finback::parallel
