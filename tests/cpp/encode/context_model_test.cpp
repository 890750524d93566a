#include "encode/context_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace {

TEST(ContextModel, LogarithmsAreThoseOfAnalysis) {
  for (uint64_t x = 1; x < (uint64_t{1} << 50); x = x * 5 / 4 + 1) {
    EXPECT_NEAR(pomona::log256(x), 256 * std::log(static_cast<double>(x)), 2.01) << x;
  }
}

TEST(ContextModel, ProbabilitiesAreThoseOfTheLogisticFunction) {
  for (int x = -pomona::kMostLogit; x <= pomona::kMostLogit; ++x) {
    const double p = 65536 / (1 + std::exp(-x / 256.0));
    EXPECT_NEAR(pomona::probability(x), std::clamp(p, 4.0, 65532.0), 0.51) << x;
  }
  EXPECT_EQ(pomona::probability(-1 << 20), 4u);
  EXPECT_EQ(pomona::probability(1 << 20), 65532u);
}

TEST(ContextModel, LogitsInvertProbabilities) {
  for (uint32_t p = 1 << 10; p < 65536 - (1 << 10); ++p) {
    EXPECT_NEAR(pomona::probability(pomona::logit(p)), p, 140) << p;
  }
  EXPECT_EQ(pomona::logit(1 << 15), -pomona::logit((1 << 15) - 1));
}

TEST(ContextModel, ACounterBeginsWithTheMeanOfWhatItSaw) {
  pomona::Counter counter;
  EXPECT_EQ(counter.p(), pomona::kHalf);
  for (int i = 0; i < 60; ++i) counter.update(i % 3 == 0, 1000);
  EXPECT_NEAR(counter.p() / 65536.0, 1 / 3.0, 0.02);
  EXPECT_NEAR(counter.shy_logit() / 256.0, std::log(0.5), 0.1);
}

TEST(ContextModel, AResidualSaysHowMuchMoreWasSeenThanExpected) {
  pomona::Residual residual;
  EXPECT_EQ(residual.logit(), 0);
  for (int i = 0; i < 4000; ++i) residual.update(i % 4 == 0, 65536 / 8);
  EXPECT_NEAR(residual.logit() / 256.0, std::log(2.0), 0.02);
}

TEST(ContextModel, AMixerLearnsWhichPredictionIsRight) {
  pomona::Mixer<2> mixer(1, {32768, 32768}, {27, 56, 24});
  for (int i = 0; i < 4000; ++i) {
    const bool bit = i % 2 == 0;
    const std::array<int32_t, 2> logits{bit ? 400 : -400, i % 3 == 0 ? 400 : -400};
    mixer.mix(logits, 0);
    mixer.update(logits, bit);
  }
  EXPECT_GT(mixer.mix({400, -400}, 0), 500);
  EXPECT_LT(mixer.mix({-400, 400}, 0), -500);
}

TEST(ContextModel, ThePeriodIsThatOfAWindowOrASquareImage) {
  EXPECT_EQ(pomona::period_of(500, 25), 25);
  EXPECT_EQ(pomona::period_of(784, 1), 28);
  EXPECT_EQ(pomona::period_of(3072, 1), 32);
  EXPECT_EQ(pomona::period_of(300, 1), 10);
  EXPECT_EQ(pomona::period_of(800, 1), 0);
  EXPECT_EQ(pomona::period_of(9, 1), 0);
}

}  // namespace
