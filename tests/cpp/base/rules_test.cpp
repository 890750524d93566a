#include "pomona/rules.h"

#include "pomona/error.h"
#include "pomona/patterns.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace {

const std::vector<pomona::Parameter> kParameters{
    {"conv1.weight", {6, 1, 5, 5}},
    {"conv1.bias", {6}},
    {"layer1.0.conv1.weight", {8, 6, 3, 3}},
    {"layer1.0.bn.weight", {8}},
    {"fc1.weight", {10, 8}},
    {"table.codes", {10, 8}, false},
};

std::vector<int64_t> match(const std::vector<std::string>& patterns) {
  return pomona::match_rules(kParameters, patterns);
}

std::string error_of(const std::vector<std::string>& patterns) {
  try {
    match(patterns);
  } catch (const pomona::InvalidArgument& error) {
    return error.what();
  }
  return "";
}

using Indices = std::vector<int64_t>;

TEST(Rules, StarSelectsFloatingParametersOfTwoOrMoreDimensions) {
  EXPECT_EQ(match({"*"}), (Indices{0, -1, 0, -1, 0, -1}));
}

TEST(Rules, AMatchMayBeginAtAnyModuleBoundaryAndStarCrossesDots) {
  EXPECT_EQ(match({"conv*"}), (Indices{0, -1, 0, -1, -1, -1}));
  EXPECT_EQ(match({"conv1"}), (Indices{0, -1, 0, -1, -1, -1}));
  EXPECT_EQ(match({"layer1"}), (Indices{-1, -1, 0, -1, -1, -1}));
  EXPECT_EQ(match({"0"}), (Indices{-1, -1, 0, -1, -1, -1}));
}

TEST(Rules, AMatchDoesNotBeginInsideAName) {
  EXPECT_NE(error_of({"onv1"}), "");
}

TEST(Rules, TheFirstPatternThatMatchesDecides) {
  EXPECT_EQ(match({"fc?", "*"}), (Indices{1, -1, 1, -1, 0, -1}));
}

TEST(Rules, ANameSpelledOutSelectsAOneDimensionalParameter) {
  EXPECT_EQ(match({"conv1.bias"}), (Indices{-1, 0, -1, -1, -1, -1}));
}

TEST(Rules, ANameSpelledOutSelectsThatParameterAlone) {
  EXPECT_EQ(match({"conv1.weight"}), (Indices{0, -1, -1, -1, -1, -1}));
}

TEST(Rules, ARegularExpressionMatchesTheWholeName) {
  EXPECT_EQ(match({"re:(conv|fc)1\\.weight"}), (Indices{0, -1, -1, -1, 0, -1}));
}

TEST(Rules, ResolveLeavesOutWhatARuleOfNothingDecides) {
  const auto ruled = pomona::resolve<int>(kParameters, {{"fc1", std::nullopt}, {"*", 7}});
  ASSERT_EQ(ruled.size(), 2u);
  EXPECT_EQ(ruled[1].parameter.name, "layer1.0.conv1.weight");
  EXPECT_EQ(ruled[1].rule, 7);
}

TEST(Rules, APatternThatMatchesNothingIsAnErrorThatListsTheNames) {
  const std::string error = error_of({"*", "fc2"});
  EXPECT_NE(error.find("`fc2`"), std::string::npos) << error;
  EXPECT_NE(error.find("conv1.weight, layer1.0.conv1.weight, fc1.weight"), std::string::npos)
      << error;
}

TEST(Rules, AnIntegerParameterSpelledOutIsAnError) {
  EXPECT_NE(error_of({"table.codes"}).find("integer"), std::string::npos);
}

TEST(Patterns, TakeVectorsAlongAndNameTheCallInErrors) {
  const auto matched = [](const std::vector<std::string>& patterns) {
    return pomona::match_parameters("freeze", kParameters, patterns);
  };
  EXPECT_EQ(matched({"fc1", "layer1"}), (std::vector<size_t>{2, 3, 4}));
  EXPECT_EQ(matched({"conv1.bias"}), (std::vector<size_t>{1}));
  const auto refused = [&](const std::string& pattern) -> std::string {
    try {
      matched({pattern});
    } catch (const pomona::InvalidArgument& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(refused("fc2"),
            "freeze: expected `fc2` to match a floating-point parameter, got no match among: "
            "conv1.weight, conv1.bias, layer1.0.conv1.weight, layer1.0.bn.weight, fc1.weight.");
  EXPECT_EQ(refused("table.codes"),
            "freeze: expected `table.codes` to name a floating-point parameter, got an integer "
            "one.");
  EXPECT_EQ(refused("re:(").substr(0, 61),
            "freeze: expected `re:(` to hold a regular expression (ECMAScr");
}

TEST(Rules, AWrongRegularExpressionIsAnError) {
  EXPECT_NE(error_of({"re:("}).find("regular expression"), std::string::npos);
}

}  // namespace
