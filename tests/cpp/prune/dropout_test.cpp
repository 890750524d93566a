#include "pomona/dropout.h"

#include "pomona/error.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace {

using pomona::adjust_dropout;
using pomona::AdjustedDropout;
using pomona::Connections;

TEST(DropoutRate, FollowsTheRootOfWhatIsLeft) {
  EXPECT_EQ(pomona::dropout_rate(0.5, 25, 100), 0.25);
  EXPECT_EQ(pomona::dropout_rate(0.5, 100, 100), 0.5);
  EXPECT_EQ(pomona::dropout_rate(0.5, 0, 100), 0.0);
  EXPECT_EQ(pomona::dropout_rate(0.5, 0, 0), 0.5);
}

TEST(AdjustDropout, CountsALayerThatHasBecomeSmallerAsItWas) {
  const std::vector<Connections> before{{"fc", 16, 64}}, after{{"fc", 16, 16}};
  const AdjustedDropout first = adjust_dropout("drop", 0.5, before);
  EXPECT_EQ(first.adjusted, 0.25);
  const AdjustedDropout second = adjust_dropout("drop", first.adjusted, after, &first);
  EXPECT_EQ(second.original, 0.5);
  EXPECT_EQ(second.adjusted, 0.25);
  EXPECT_EQ(second.layers[0].total, 64);
}

TEST(AdjustDropout, RefusesLayersThatArePrunedDifferently) {
  const auto error_of = [](const std::vector<Connections>& layers) -> std::string {
    try {
      adjust_dropout("drop", 0.5, layers);
    } catch (const pomona::InvalidArgument& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(error_of({{"a", 1, 2}, {"b", 2, 4}}), "no error");
  EXPECT_EQ(error_of({{"a", 1, 2}, {"b", 3, 4}}),
            "adjust_dropout_: expected each dropout of `model` to follow one layer, got `drop` "
            "after a, b, which are pruned differently. Give each layer a dropout of its own.");
  EXPECT_EQ(error_of({}),
            "adjust_dropout_: expected each dropout of `model` to follow one layer, got `drop` "
            "after none.");
}

}  // namespace
