#include "pomona/dsd.h"

#include "pomona/error.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace {

using pomona::DSD;
using pomona::Live;
using pomona::Phase;

std::vector<pomona::Ruled<pomona::Prune>> one_layer() {
  return {{{"a", {10, 10}}, {0.3}}};
}

TEST(DSD, PrunesInTheSparsePhaseAloneAndSeedsSecondMomentsAfterIt) {
  DSD dsd(one_layer(), {.lengths = {1, 2, 1}});
  const at::Tensor weight = at::randn({10, 10}), second = at::ones({10, 10});
  const std::vector<Live> live{{weight, {{"exp_avg_sq", second}}}};
  EXPECT_FALSE(dsd.start(live));
  std::vector<std::pair<int64_t, double>> seen;  // (zeros, lr factor)
  while (dsd.remaining() > 0) {
    const int64_t zeros = 100 - weight.count_nonzero().item<int64_t>();
    seen.emplace_back(zeros, dsd.lr_factor());
    if (dsd.steps_in_phase() == 1) second.masked_fill_(weight.eq(0), 0);  // as the optimizer would
    dsd.step(live);
  }
  EXPECT_EQ(seen,
            (std::vector<std::pair<int64_t, double>>{{0, 1}, {30, 0.1}, {30, 0.1}, {30, 0.01}}));
  EXPECT_TRUE(second.eq(1).all().item<bool>());
  EXPECT_EQ(dsd.phase(), Phase::kDone);
  EXPECT_EQ(dsd.pruner().sparsity(), 0);
}

TEST(DSD, ASnapshotGoesOnInAFreshObject) {
  DSD dsd(one_layer(), {.lengths = {0, 2, 1}});
  const std::vector<Live> live{{at::randn({10, 10}), {}}};
  const auto transition = dsd.start(live);
  ASSERT_TRUE(transition);
  EXPECT_EQ(transition->to, Phase::kSparse);
  dsd.step(live);
  DSD twin(one_layer(), {.lengths = {0, 2, 1}});
  twin.load_state(dsd.state());
  EXPECT_EQ(twin.pruner().masks(), dsd.pruner().masks());
  EXPECT_EQ(twin.remaining(), 2);
  EXPECT_EQ(twin.step(live)->to, Phase::kRedense);
}

}  // namespace
