#include "pomona/codebook.h"
#include "pomona/error.h"

#include "error_of.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace {

using pomona::assign_codes;
using pomona::Fit;
using pomona::nearest_codebook;
using pomona::testing::error_of;

// The entries, by Lloyd's algorithm from the linear initialization unless another is asked for.
std::vector<float> fit_codebook(const std::vector<float>& values, int k, Fit fit = Fit::kLinear) {
  return pomona::fit_codebook(values, k, {fit}).entries;
}

constexpr float kMax = std::numeric_limits<float>::max();
constexpr float kDenormal = std::numeric_limits<float>::denorm_min();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> normal_values(size_t n, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0F, 0.1F);
  std::vector<float> values(n);
  for (float& value : values) value = normal(rng);
  return values;
}

// The nearest of the centroids by looking at all of them; of two equally near the lower.
size_t nearest(double value, const std::vector<double>& centroids) {
  size_t best = 0;
  for (size_t j = 1; j < centroids.size(); ++j) {
    if (std::abs(value - centroids[j]) < std::abs(value - centroids[best])) best = j;
  }
  return best;
}

// Lloyd as the textbook has it: assign every value, average every cluster, until nothing moves.
std::vector<float> literal_lloyd(const std::vector<float>& values, int k) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  std::vector<double> centroids;
  for (int j = 0; j < k; ++j) {
    centroids.push_back(k == 1 ? *low : *low + (double{*high} - *low) * j / (k - 1));
  }
  std::vector<size_t> codes(values.size());
  std::vector<size_t> counts;
  for (bool moved = true; moved;) {
    moved = false;
    std::vector<double> sums(centroids.size(), 0.0);
    counts.assign(centroids.size(), 0);
    for (size_t i = 0; i < values.size(); ++i) {
      const size_t code = nearest(values[i], centroids);
      moved |= code != codes[i];
      codes[i] = code;
      sums[code] += double{values[i]};
      ++counts[code];
    }
    for (size_t j = 0; j < centroids.size(); ++j) {
      if (counts[j] > 0) centroids[j] = sums[j] / static_cast<double>(counts[j]);
    }
  }
  std::vector<float> codebook;
  for (size_t j = 0; j < centroids.size(); ++j) {
    if (counts[j] > 0) codebook.push_back(static_cast<float>(centroids[j]));
  }
  return codebook;
}

TEST(FitCodebook, EqualsTheLiteralLloyd) {
  for (const int k : {1, 2, 3, 15, 16}) {
    const auto values = normal_values(20'000, static_cast<unsigned>(k));
    const auto codebook = fit_codebook(values, k), expected = literal_lloyd(values, k);
    ASSERT_EQ(codebook.size(), expected.size()) << "k = " << k;
    for (size_t j = 0; j < codebook.size(); ++j) EXPECT_FLOAT_EQ(codebook[j], expected[j]);
  }
}

TEST(FitCodebook, ReturnsAtMostKDistinctValuesAsTheyAre) {
  EXPECT_EQ(fit_codebook(std::vector<float>{2, -1, 2, 0.1F}, 3), (std::vector<float>{-1, 0.1F, 2}));
  EXPECT_EQ(fit_codebook(std::vector<float>{3}, 256), (std::vector<float>{3}));
}

TEST(FitCodebook, TakesBothZerosForOneValue) {
  const auto codebook = fit_codebook(std::vector<float>{-0.0F, 0.0F, 1.0F}, 2);
  ASSERT_EQ(codebook, (std::vector<float>{0, 1}));
  EXPECT_FALSE(std::signbit(codebook[0]));
}

TEST(FitCodebook, DropsCentroidsWithoutMembers) {
  std::vector<float> values{1000};
  for (int i = 0; i < 20; ++i) values.push_back(static_cast<float>(i) / 20);
  const auto codebook = fit_codebook(values, 4);  // two of the four start in the gap and stay there
  EXPECT_EQ(codebook.size(), 2u);
  EXPECT_EQ(codebook.back(), 1000.0F);
}

TEST(FitCodebook, AscendsStrictly) {
  for (const int k : {2, 16, 255, 256}) {
    const auto codebook = fit_codebook(normal_values(5000, 7), k);
    EXPECT_EQ(std::adjacent_find(codebook.begin(), codebook.end(), std::greater_equal<float>{}),
              codebook.end());
  }
}

TEST(FitCodebook, DoesNotDependOnTheOrderOfValues) {
  auto values = normal_values(3000, 9);
  const auto codebook = fit_codebook(values, 31);
  std::shuffle(values.begin(), values.end(), std::mt19937(1));
  EXPECT_EQ(fit_codebook(values, 31), codebook);
}

TEST(FitCodebook, DoesNotOverflowAtTheEndsOfTheRange) {
  const std::vector<float> values{-kMax, -kMax, kMax, kMax, kMax / 2, 1, 2, 3, kDenormal};
  for (const float centroid : fit_codebook(values, 3)) EXPECT_TRUE(std::isfinite(centroid));
}

TEST(FitCodebook, KeepsDenormalsApart) {
  std::vector<float> values;
  for (int i = 1; i <= 8; ++i) values.push_back(kDenormal * static_cast<float>(i));
  EXPECT_EQ(fit_codebook(values, 2), (std::vector<float>{kDenormal * 2, kDenormal * 6}));
}

TEST(FitCodebook, SmallValuesBetweenHugeOnesKeepTheirMean) {
  const auto codebook = fit_codebook(std::vector<float>{-1e30F, 1, 2, 3, 1e30F}, 3);
  EXPECT_EQ(codebook, (std::vector<float>{-1e30F, 2, 1e30F}));
}

TEST(FitCodebook, RefusesBadArguments) {
  const std::vector<float> one{1};
  EXPECT_NE(error_of([&] { fit_codebook(one, 0); }).find("`k` in 1..256, got 0"),
            std::string::npos);
  EXPECT_NE(error_of([&] { fit_codebook(one, 257); }).find("got 257"), std::string::npos);
  EXPECT_NE(error_of([&] { fit_codebook({}, 2); }).find("at least one value"), std::string::npos);
  const std::vector<float> nan{1, NAN}, infinite{-kInfinity};
  EXPECT_NE(error_of([&] { fit_codebook(nan, 2); }).find("finite, got nan at 1"),
            std::string::npos);
  EXPECT_NE(error_of([&] { fit_codebook(infinite, 2); }).find("finite, got -inf at 0"),
            std::string::npos);
}

TEST(AssignCodes, EqualsBruteForce) {
  const auto values = normal_values(4000, 3);
  for (const int k : {1, 2, 7, 256}) {
    const auto codebook = fit_codebook(values, k);
    const std::vector<double> centroids(codebook.begin(), codebook.end());
    const auto codes = assign_codes(values, nearest_codebook(codebook));
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(codes[i], nearest(values[i], centroids)) << values[i];
    }
  }
}

TEST(AssignCodes, GivesATieToTheLower) {
  EXPECT_EQ(assign_codes(std::vector<float>{0, 1, 2, 3, 4}, nearest_codebook({0, 2, 4})),
            (std::vector<uint8_t>{0, 0, 1, 1, 2}));
}

TEST(AssignCodes, DecidesExactlyWhereTheMidpointNeedsMoreDigitsThanADouble) {
  // The midpoint is 5e29 -+ 5e-31: just below, or just above, the value 5e29.
  const std::vector<float> half{1e30F / 2};
  EXPECT_EQ(assign_codes(half, nearest_codebook({-1e-30F, 1e30F})), (std::vector<uint8_t>{1}));
  EXPECT_EQ(assign_codes(half, nearest_codebook({1e-30F, 1e30F})), (std::vector<uint8_t>{0}));
}

TEST(AssignCodes, DoesNotOverflowAtTheEndsOfTheRange) {
  const std::vector<float> ends{-kMax, kMax, -kDenormal, kDenormal};
  EXPECT_EQ(assign_codes(ends, nearest_codebook({-kMax, kMax})),
            (std::vector<uint8_t>{0, 1, 0, 1}));
  EXPECT_EQ(assign_codes(ends, nearest_codebook({kMax / 2, kMax})),
            (std::vector<uint8_t>{0, 1, 0, 0}));
}

TEST(AssignCodes, OfNothingIsNothing) {
  EXPECT_TRUE(assign_codes(std::vector<float>{}, nearest_codebook({1})).empty());
}

TEST(NearestCodebook, RefusesBadEntries) {
  const auto message = [](std::vector<float> entries) {
    return error_of([&] { nearest_codebook(std::move(entries)); });
  };
  EXPECT_NE(message({}).find("1 to 256 `entries`, got 0"), std::string::npos);
  EXPECT_NE(message(std::vector<float>(257)).find("got 257"), std::string::npos);
  EXPECT_NE(message({1, 1}).find("ascend, got 1 at 1"), std::string::npos);
  EXPECT_NE(message({NAN}).find("ascend, got nan at 0"), std::string::npos);
}

}  // namespace
