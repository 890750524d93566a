#include "pomona/error.h"
#include "pomona/optim.h"
#include "pomona/quantize.h"

#include "error_of.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_unique.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/sgd.h>

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <tuple>
#include <vector>

namespace {

using pomona::Live;
using pomona::Reduction;
using pomona::Sharer;
using pomona::testing::error_of;

// Two clusters, {1, 1.5} and {4, 5}, beside two zeros.
at::Tensor weight() {
  return at::tensor({1.0F, 0.0F, 4.0F, 1.5F, 5.0F, 0.0F}).reshape({2, 3}).requires_grad_();
}

Sharer sharer_of(const at::Tensor& like, int bits, Reduction reduction = Reduction::kMean) {
  return Sharer({{{"w", like.sizes().vec()}, {bits}}}, reduction);
}

at::Tensor matrix(std::vector<float> values) {
  return at::tensor(values).reshape({2, 3});
}

TEST(Sharer, WritesCentroidsAndPoolsTheState) {
  const at::Tensor w = weight();
  const at::Tensor momentum = matrix({1, 9, 2, 3, 4, 9});
  Sharer sharer = sharer_of(w, 2);
  // 2 bits and zeros: at most three centroids; three of the four values are nearest to one alone.
  EXPECT_TRUE(sharer.assign(std::vector<Live>{{w, {{"momentum_buffer", momentum}}}}));
  EXPECT_TRUE(at::equal(sharer.codes(0).ne(0), weight().ne(0)));
  EXPECT_TRUE(at::equal(sharer.codebook(0, w).index({sharer.codes(0).to(at::kLong)}), w));
  EXPECT_EQ(momentum[0][1].item<float>(), 0);
  EXPECT_FALSE(sharer.assign(std::vector<Live>{{w, {}}}));
}

TEST(Sharer, PoolsAGradientOnceUntilKeep) {
  const at::Tensor w = matrix({1, 0, 2, 1, 2, 0}).requires_grad_();
  const std::vector<Live> live{{w, {}}};
  for (const auto reduction : {Reduction::kMean, Reduction::kSum}) {
    Sharer sharer = sharer_of(w, 2, reduction);
    sharer.assign(live);
    w.mutable_grad() = matrix({1, 7, 2, 3, 6, 7});
    const bool is_mean = reduction == Reduction::kMean;
    const at::Tensor once = is_mean ? matrix({2, 0, 4, 2, 4, 0}) : matrix({4, 0, 8, 4, 8, 0});
    sharer.pool(live);
    EXPECT_TRUE(at::equal(w.grad(), once));
    w.grad().mul_(0.5);  // clipping
    sharer.pool(live);
    EXPECT_TRUE(at::equal(w.grad(), once * 0.5));
    sharer.keep(live);
    sharer.pool(live);
    EXPECT_TRUE(at::equal(w.grad(), is_mean ? once * 0.5 : once));
    w.mutable_grad() = matrix({1, 7, 2, 3, 6, 7});  // a new one
    sharer.pool(live);
    EXPECT_TRUE(at::equal(w.grad(), once));
    w.mutable_grad() = at::Tensor();
    sharer.pool(live);
    EXPECT_FALSE(w.grad().defined());
  }
}

TEST(Sharer, StepMovesCentroidsAndLeavesZeros) {
  const at::Tensor w = matrix({1, 0, 2, 1, 2, 0}).requires_grad_();
  const std::vector<Live> live{{w, {}}};
  torch::optim::SGD optimizer({w}, 0.5);
  Sharer sharer = sharer_of(w, 2);
  sharer.assign(live);
  w.mutable_grad() = matrix({1, 7, 2, 3, 6, 7});
  pomona::step(optimizer, live, sharer);
  EXPECT_TRUE(at::equal(w, matrix({0, 0, 0, 0, 0, 0})));
  sharer.check(live);
  EXPECT_EQ(sharer.report()[0].kept, 4);
}

TEST(Sharer, KeepIsExactForEqualMembersInFloat64) {
  const at::Tensor w = at::zeros({1001}, at::kDouble) + 0.1;
  Sharer sharer = sharer_of(w, 1);
  sharer.assign(std::vector<Live>{{w, {}}});
  w.fill_(0.1);
  w[3] = 0.1 + 1e-16;  // an ulp away, so that the mean is taken
  sharer.keep(std::vector<Live>{{w, {}}});
  EXPECT_NEAR(w[0].item<double>(), 0.1, 1e-16);
  const double value = w[0].item<double>();
  sharer.keep(std::vector<Live>{{w, {}}});
  EXPECT_EQ(w[500].item<double>(), value);
}

TEST(Sharer, GivesEachChannelItsCodebook) {
  const at::Tensor w = at::tensor({1.0F, 1.5F, 9.0F, 0.0F, -2.0F, -4.0F, -9.0F, -9.5F})
                           .reshape({2, 4})
                           .requires_grad_();
  Sharer sharer({{{"w", {2, 4}}, {.bits = 2, .codes = 3, .group = pomona::Share::kPerChannel}}});
  const std::vector<Live> live{{w, {}}};
  sharer.assign(live);
  EXPECT_EQ(sharer.group(0), 4);
  EXPECT_EQ(sharer.codebook(0, w).sizes(), (at::IntArrayRef{2, 3}));
  // The zero is in no cluster; it takes a code in every channel.
  const at::Tensor expected =
      at::tensor({1.25F, 1.25F, 9.0F, 0.0F, -3.0F, -3.0F, -9.25F, -9.25F}).reshape({2, 4});
  EXPECT_TRUE(at::equal(w, expected));
  w.mutable_grad() = at::tensor({1.0F, 3.0F, 5.0F, 7.0F, 2.0F, 4.0F, 1.0F, 2.0F}).reshape({2, 4});
  sharer.pool(live);
  EXPECT_TRUE(at::equal(
      w.grad(), at::tensor({2.0F, 2.0F, 5.0F, 0.0F, 3.0F, 3.0F, 1.5F, 1.5F}).reshape({2, 4})));
  EXPECT_EQ(sharer.report()[0].groups, 2);
  Sharer other({{{"w", {2, 4}}, {.bits = 2, .codes = 3, .group = pomona::Share::kPerChannel}}});
  other.load_state(sharer.state());
  other.check(live);
}

TEST(Sharer, RoundsEntriesAgainAfterTraining) {
  const at::Tensor w = weight();
  Sharer sharer({{{"w", {2, 3}}, {.bits = 2, .entries = pomona::EntryType::kBFloat16}}});
  const std::vector<Live> live{{w, {}}};
  sharer.assign(live);
  const auto is_rounded = [&] { return at::equal(w, w.to(at::kBFloat16).to(at::kFloat)); };
  EXPECT_TRUE(is_rounded());
  w.detach().mul_(1.001);
  EXPECT_FALSE(is_rounded());
  sharer.round(live);
  EXPECT_TRUE(is_rounded());
  sharer.check(live);
}

TEST(Sharer, ComesBackFromItsState) {
  const at::Tensor w = weight();
  Sharer sharer = sharer_of(w, 2), other = sharer_of(w, 2);
  sharer.assign(std::vector<Live>{{w, {}}});
  other.load_state(sharer.state());
  EXPECT_TRUE(other.is_shared());
  EXPECT_TRUE(at::equal(other.codes(0), sharer.codes(0)));
  other.check(std::vector<Live>{{w, {}}});
  other.release();
  EXPECT_FALSE(other.is_shared());
}

TEST(Alternate, IsFreeInTheLastStepsOfEachRound) {
  const pomona::Alternate schedule{.every = 4, .free = 2, .rounds = 2};
  std::string free, due;
  for (int64_t step = 0; step < 12; ++step) {
    free += schedule.is_free(step) ? 'x' : '.';
    due += schedule.is_due(step) ? 'x' : '.';
  }
  EXPECT_EQ(free, "..xx..xx....");
  EXPECT_EQ(due, "....x...x...");
  EXPECT_FALSE(pomona::Alternate{}.is_free(0));
}

TEST(Sharer, AlternatesBetweenCentroidsAndWeights) {
  const at::Tensor w = weight();
  Sharer sharer({{{"w", {2, 3}}, {1}}}, pomona::Reduction::kMean,
                {.every = 3, .free = 1, .rounds = 1});
  torch::optim::SGD optimizer({w}, 0.5);
  const std::vector<Live> live{{w, {}}};
  sharer.assign(live);
  const auto distinct = [&] { return std::get<0>(at::_unique(w)).numel(); };
  const at::Tensor before = sharer.codes(0).clone();
  for (int step = 0; step < 2; ++step) {
    w.mutable_grad() = at::arange(6, at::kFloat).reshape({2, 3});
    pomona::step(optimizer, live, sharer);
    EXPECT_EQ(distinct(), 2);
  }
  w.mutable_grad() = 10 * at::arange(6, at::kFloat).reshape({2, 3});
  pomona::step(optimizer, live, sharer);  // free, and then new codes
  EXPECT_EQ(distinct(), 2);
  EXPECT_FALSE(at::equal(sharer.codes(0), before));
  sharer.check(live);
}

TEST(Sharer, WritesNothingWhenOneParameterIsRefused) {
  const at::Tensor good = weight(), bad = weight();
  bad.detach()[0][0] = std::numeric_limits<float>::quiet_NaN();
  Sharer sharer({{{"good", {2, 3}}, {1}}, {{"bad", {2, 3}}, {1}}});
  const std::vector<Live> live{{good, {}}, {bad, {}}};
  EXPECT_NE(error_of([&] { sharer.assign(live); }).find("`bad` to be finite"), std::string::npos);
  EXPECT_TRUE(at::equal(good, weight()));
  EXPECT_FALSE(sharer.is_shared());
}

TEST(Sharer, RefusesBadArguments) {
  const at::Tensor w = weight();
  const auto refuses = [](const auto& f, const char* message) {
    EXPECT_NE(error_of(f).find(message), std::string::npos) << error_of(f);
  };
  refuses([&] { sharer_of(w, 9); }, "`bits` of `w` in 1..8, got 9");
  refuses([&] { Sharer({{{"w", {2}}, {.bits = 2, .codes = 5}}}); }, "`codes` of `w` in 1..4");
  refuses([&] { Sharer({{{"w", {2}}, {.group = -2}}}); }, "`group` of `w` to be 1 or more");
  refuses([&] { Sharer({{{"w", {2}}, {.group = -1}}}); }, "`w` to have channels");
  refuses([&] { Sharer({{{"w", {2}}, {.rate = -0.5}}}); }, "`rate` of `w` to be finite");
  refuses([&] { Sharer({{{"w", {2}}, {1}}, {{"w", {2}}, {1}}}); }, "every name once, got `w`");
  const auto alternating = [](pomona::Alternate schedule) {
    Sharer({{{"w", {2}}, {1}}}, pomona::Reduction::kMean, schedule);
  };
  refuses([&] { alternating({1, 1, 1}); }, "`every` of Alternate of at least 2, got 1");
  refuses([&] { alternating({5, 5, 1}); }, "`free` of Alternate in 1..4, got 5");
  refuses([&] { alternating({5, 2, 0}); }, "`rounds` of Alternate of at least 1, got 0");
  Sharer sharer = sharer_of(w, 2);
  refuses([&] { sharer.assign({}); }, "expected 1 parameters, got 0");
  refuses([&] { sharer.assign(std::vector<Live>{{w.detach().t(), {}}}); }, "of shape [2, 3]");
  refuses([&] { sharer.assign(std::vector<Live>{{w.to(at::kLong), {}}}); }, "dense tensor of");
  refuses([&] { sharer.assign(std::vector<Live>{{w.detach() * 0, {}}}); }, "all zeros");
  torch::optim::LBFGS lbfgs({w});
  refuses([&] { pomona::step(lbfgs, std::vector<Live>{{w, {}}}, sharer); }, "got LBFGS");
}

}  // namespace
