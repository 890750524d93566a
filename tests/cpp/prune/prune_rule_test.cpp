// Schedules as pure functions of the step; pieces and thresholds beside what a hand computes.
#include "pomona/prune_rule.h"

#include "pomona/error.h"

#include "prune/groups_kernel.h"
#include "prune/threshold_kernel.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace {

using pomona::Granularity;
using pomona::Mask;
using pomona::MatrixShape;
using pomona::Prune;
using pomona::Schedule;

std::vector<int64_t> round_steps(const Prune& rule, int64_t most) {
  std::vector<int64_t> steps;
  for (int64_t step = 0; step < most; ++step) {
    if (pomona::round_at(rule, step)) steps.push_back(step);
  }
  return steps;
}

TEST(PruneRule, OneShotHasOneRound) {
  EXPECT_EQ(round_steps({.sparsity = 0.5, .schedule = {.begin = 3}}, 20),
            (std::vector<int64_t>{3}));
}

TEST(PruneRule, IterativeFollowsItsList) {
  const Prune rule{.sparsity = 0.9,
                   .schedule = {.kind = Schedule::Kind::kIterative,
                                .begin = 1,
                                .every = 4,
                                .sparsities = {0.3, 0.6, 0.9}}};
  EXPECT_EQ(round_steps(rule, 30), (std::vector<int64_t>{1, 5, 9}));
  EXPECT_EQ(pomona::round_at(rule, 5)->sparsity, 0.6);
  EXPECT_TRUE(pomona::round_at(rule, 9)->is_last);
}

TEST(PruneRule, TheCubicRampStartsAndEndsWhereItShould) {
  const Prune rule{
      .sparsity = 0.9,
      .schedule = {
          .kind = Schedule::Kind::kCubic, .begin = 2, .every = 4, .length = 10, .initial = 0.1}};
  EXPECT_EQ(round_steps(rule, 40), (std::vector<int64_t>{2, 6, 10, 12}));
  EXPECT_DOUBLE_EQ(pomona::round_at(rule, 2)->sparsity, 0.1);
  EXPECT_DOUBLE_EQ(pomona::round_at(rule, 6)->sparsity, 0.9 - 0.8 * 0.6 * 0.6 * 0.6);
  EXPECT_EQ(pomona::round_at(rule, 12)->sparsity, 0.9);
}

TEST(PruneRule, SurgeryLetsWeightsReturnBetweenItsRounds) {
  const Prune rule{.sparsity = 0.5,
                   .schedule = {.kind = Schedule::Kind::kSurgery, .every = 2, .length = 4}};
  EXPECT_EQ(round_steps(rule, 20), (std::vector<int64_t>{0, 2, 4}));
  EXPECT_TRUE(pomona::round_at(rule, 0)->may_return);
  EXPECT_FALSE(pomona::may_return_after(rule.schedule, 0));
  EXPECT_TRUE(pomona::may_return_after(rule.schedule, 1));
  EXPECT_TRUE(pomona::may_return_after(rule.schedule, 4));
  EXPECT_FALSE(pomona::may_return_after(rule.schedule, 5));
}

TEST(PruneRule, RefusesEachWrongMemberByName) {
  const auto error_of = [](const Prune& rule) -> std::string {
    try {
      pomona::check_rule(rule, "Prune");
    } catch (const pomona::InvalidArgument& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(error_of({.sparsity = 1}), "Prune: expected `sparsity` in [0, 1), got 1.");
  EXPECT_EQ(error_of({.criterion = {.quality = 0}}),
            "Prune: expected `quality` finite and above 0, got 0.");
  EXPECT_EQ(error_of({.criterion = {.growth = -1}}),
            "Prune: expected `growth` finite and at least 0, got -1.");
  EXPECT_EQ(error_of({.criterion = {.decay = 1}}), "Prune: expected `decay` in [0, 1), got 1.");
  EXPECT_EQ(error_of({.granularity = {Granularity::Kind::kBlock, 0, 1}}),
            "Prune: expected `rows` of at least 1, got 0.");
  EXPECT_EQ(error_of({.granularity = {Granularity::Kind::kNOfM, 4, 4}}),
            "Prune: expected `n:m` with n below m, got 4:4.");
  EXPECT_EQ(error_of({.schedule = {.begin = -1}}),
            "Prune: expected `begin` of at least 0, got -1.");
  EXPECT_EQ(error_of({.schedule = {.every = 0}}), "Prune: expected `every` of at least 1, got 0.");
  EXPECT_EQ(error_of({.schedule = {.kind = Schedule::Kind::kCubic}}),
            "Prune: expected `length` of at least 1, got 0.");
  EXPECT_EQ(error_of({.schedule = {.kind = Schedule::Kind::kIterative}}),
            "Prune: expected `sparsities` of at least one round, got none.");
  EXPECT_EQ(error_of({.schedule = {.kind = Schedule::Kind::kIterative, .sparsities = {0.5, 0.4}}}),
            "Prune: expected `sparsities` ascending, got [0.5, 0.4].");
  EXPECT_EQ(error_of({.schedule = {.margin = 1}}), "Prune: expected `margin` in [0, 1), got 1.");
}

TEST(Groups, SumRowsColumnsAndBlocks) {
  const std::vector<float> scores{1, -2, 3, 4, 5, -6};  // [2, 3]
  const MatrixShape shape{2, 3, 1};
  const auto sums = [&](const Granularity& granularity, bool by_value = false) {
    return pomona::sum_groups(std::span<const float>(scores), shape, granularity, by_value).sums;
  };
  EXPECT_EQ(sums({Granularity::Kind::kRow}), (std::vector<double>{6, 15}));
  EXPECT_EQ(sums({Granularity::Kind::kRow}, true), (std::vector<double>{2, 3}));
  EXPECT_EQ(sums({Granularity::Kind::kColumn}), (std::vector<double>{5, 7, 9}));
  EXPECT_EQ(sums({Granularity::Kind::kBlock, 2, 2}), (std::vector<double>{12, 9}));
}

TEST(Groups, ColumnsOfAConvolutionAreItsChannels) {
  const std::vector<float> scores{1, 2, 3, 4, 5, 6, 7, 8};  // [2, 2, 2]
  const auto groups = pomona::sum_groups(std::span<const float>(scores), {2, 2, 2},
                                         {Granularity::Kind::kColumn}, false);
  EXPECT_EQ(groups.sums, (std::vector<double>{1 + 2 + 5 + 6, 3 + 4 + 7 + 8}));
  EXPECT_EQ(groups.sizes, (std::vector<int64_t>{4, 4}));
}

TEST(Groups, WeightsOfAGroupThatHasGoneGo) {
  Mask groups(2);
  groups.set(1, false);
  const MatrixShape shape{2, 3, 1};
  const Mask mask = pomona::without_groups(Mask(6), groups, shape, {Granularity::Kind::kRow});
  EXPECT_EQ(mask.kept(), 3);
  EXPECT_EQ(pomona::live_groups(mask, shape, {Granularity::Kind::kRow}), groups);
}

TEST(Groups, TwoOfFourKeepTheTwoLargest) {
  const std::vector<float> scores{4, -3, 2, 1, 1, 1, 1, 1, 5, 0};
  const Mask mask = pomona::select_n_of_m(std::span<const float>(scores), {1, 10, 1},
                                          {Granularity::Kind::kNOfM, 2, 4}, Mask(10), false);
  std::vector<bool> kept;
  for (int64_t i = 0; i < 10; ++i) kept.push_back(mask[i]);
  EXPECT_EQ(kept, (std::vector<bool>{1, 1, 0, 0, 0, 0, 1, 1, 1, 0}));
}

TEST(Thresholds, TwoOfThemKeepWhatLiesBetween) {
  const std::vector<float> scores{0.5f, 1.0f, 1.5f, 0.5f, 1.0f, -1.5f};
  Mask previous(6);
  for (const int64_t pruned : {3, 4, 5}) previous.set(pruned, false);
  const Mask mask = pomona::apply_thresholds(std::span<const float>(scores), previous, 0.9, 1.1);
  std::vector<bool> kept;
  for (int64_t i = 0; i < 6; ++i) kept.push_back(mask[i]);
  EXPECT_EQ(kept, (std::vector<bool>{0, 1, 1, 0, 0, 1}));
}

TEST(Thresholds, TheDeviationIsTorchs) {
  const std::vector<double> values{1, 2, 3, 4};
  EXPECT_DOUBLE_EQ(pomona::moments_of(std::span<const double>(values)).deviation(),
                   std::sqrt(5.0 / 3));
  EXPECT_EQ(pomona::Moments{}.deviation(), 0);
}

TEST(Thresholds, RandomScoresDependOnSeedAndPlaceAlone) {
  std::vector<double> whole(100), part(40);
  pomona::fill_random(7, 0, whole);
  pomona::fill_random(7, 30, part);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 30));
  for (const double x : whole) EXPECT_TRUE(x > 0 && x < 1);
}

}  // namespace
