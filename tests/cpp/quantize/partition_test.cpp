// The exact optimum of 1-D k-means against a literal one, and what exact fits promise.
#include "pomona/codebook.h"
#include "pomona/error.h"

#include "base/float16.h"
#include "quantize/bins.h"
#include "quantize/partition_kernel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace {

using pomona::Fit;
using pomona::fit_codebook;
using pomona::FitOptions;
using pomona::Points;

// The least cost of k runs by the definition: a table over k and n of every last run, each cost a
// sum about its own mean, in long double.
long double literal_optimum(const Points& points, int k) {
  const size_t n = points.size();
  constexpr auto kInfinity = std::numeric_limits<long double>::infinity();
  std::vector<std::vector<long double>> cost(n + 1, std::vector<long double>(n + 1, 0));
  for (size_t i = 0; i < n; ++i) {
    long double mass = 0, mean = points.positions[i], sum = 0;
    for (size_t j = i; j < n; ++j) {
      const long double weight = points.weights[j], distance = points.positions[j] - mean;
      mass += weight;
      mean += distance * weight / mass;
      sum += weight * distance * (points.positions[j] - mean);
      cost[i][j + 1] = sum;
    }
  }
  std::vector<long double> best(n + 1, kInfinity);
  best[0] = 0;
  for (int run = 0; run < k; ++run) {
    std::vector<long double> next(n + 1, kInfinity);
    for (size_t j = 1; j <= n; ++j) {
      for (size_t i = 0; i < j; ++i) next[j] = std::min(next[j], best[i] + cost[i][j]);
    }
    best = std::move(next);
  }
  return best[n];
}

void expect_optimal(const Points& points, const std::string& name) {
  for (const int k : {1, 2, 3, 7, 16, 40}) {
    if (static_cast<size_t>(k) > points.size()) continue;
    const auto ends = optimal_partition(points, k);
    ASSERT_EQ(ends.size(), static_cast<size_t>(k)) << name;
    EXPECT_EQ(ends.back(), points.size()) << name;
    const auto optimum = static_cast<double>(literal_optimum(points, k));
    EXPECT_LE(cost_of(points, ends), optimum * (1 + 1e-6)) << name << ", k = " << k;
  }
}

Points points_of(std::vector<float> values) {
  return pomona::exact_points(values);
}

std::vector<float> drawn(size_t n, unsigned seed, const auto& distribution) {
  std::mt19937 rng(seed);
  auto draw = distribution;
  std::vector<float> values;
  for (size_t i = 0; i < n; ++i) values.push_back(static_cast<float>(draw(rng)));
  return values;
}

TEST(OptimalPartition, IsTheLiteralOptimum) {
  // Both sides of kDirectAtMost, where the algorithm changes.
  for (const size_t n : {size_t{2}, size_t{17}, size_t{200}, pomona::kDirectAtMost + 100}) {
    const auto seed = static_cast<unsigned>(n);
    expect_optimal(points_of(drawn(n, seed, std::normal_distribution<>())), "normal");
    expect_optimal(points_of(drawn(n, seed, std::cauchy_distribution<>())), "heavy tails");
    expect_optimal(points_of(drawn(n, seed, std::lognormal_distribution<>(0, 6))), "many scales");
  }
}

TEST(OptimalPartition, IsTheLiteralOptimumOfAdversarialPoints) {
  const size_t many = pomona::kDirectAtMost + 60;
  std::vector<float> even, powers{0}, heaps, far;
  for (size_t i = 0; i < many; ++i) even.push_back(static_cast<float>(i));  // ties everywhere
  for (int i = -60; i < 60; ++i) powers.push_back(std::ldexp(1.0F, i));
  for (size_t i = 0; i < many; ++i) {
    heaps.push_back(static_cast<float>(i % 5) * 1000 + static_cast<float>(i) * 1e-3F);
    far.push_back(1e6F + static_cast<float>(i % 97) * 0.0625F);
  }
  far.push_back(-3e37F);
  expect_optimal(points_of(even), "even");
  expect_optimal(points_of(powers), "powers");
  expect_optimal(points_of(heaps), "heaps");
  expect_optimal(points_of(far), "far");
  Points weighted = points_of(even);
  for (size_t i = 0; i < weighted.size(); ++i) {
    weighted.weights[i] = std::pow(10.0, static_cast<double>(i * 7919 % 13) - 6);
  }
  expect_optimal(weighted, "weights of many sizes");
}

TEST(OptimalPartition, SplicesWhereNoPriceGivesTheNumber) {
  // Equal gaps: the cost of k runs is straight in k over long stretches.
  std::vector<float> values;
  for (size_t i = 0; i < 1024; ++i) values.push_back(static_cast<float>(i));
  const Points points = points_of(values);
  double last = std::numeric_limits<double>::infinity();
  for (int k = 1; k <= 256; ++k) {
    const double cost = cost_of(points, optimal_partition(points, k));
    EXPECT_LT(cost, last) << k;
    last = cost;
    // n = k q + r even points: r runs of q + 1 and k - r of q; a run of m costs (m^3 - m) / 12.
    const double q = 1024 / k, r = 1024 % k;
    const auto run = [](double m) { return (m * m * m - m) / 12; };
    EXPECT_NEAR(cost, r * run(q + 1) + (k - r) * run(q), 1e-6 * cost) << k;
  }
}

TEST(FitCodebook, ExactIsNeverWorseThanLloydFromAnyInit) {
  const auto values = drawn(5000, 3, std::normal_distribution<>(0, 0.05));
  const auto cost = [&](Fit fit, int k) {
    const auto codebook = fit_codebook(values, k, {fit, 7});
    const auto codes = assign_codes(values, codebook);
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const double distance = double{values[i]} - double{codebook.entries[codes[i]]};
      sum += distance * distance;
    }
    return sum;
  };
  for (const int k : {2, 5, 16, 64}) {
    for (const Fit fit : {Fit::kLinear, Fit::kDensity, Fit::kForgy, Fit::kPlusPlus}) {
      EXPECT_LE(cost(Fit::kExact, k), cost(fit, k) * (1 + 1e-9)) << k;
    }
  }
}

TEST(FitCodebook, RepeatsUnderASeed) {
  const auto values = drawn(2000, 4, std::normal_distribution<>());
  for (const Fit fit : {Fit::kForgy, Fit::kPlusPlus}) {
    const auto once = fit_codebook(values, 16, {fit, 5}).entries;
    EXPECT_EQ(fit_codebook(values, 16, {fit, 5}).entries, once);
    EXPECT_NE(fit_codebook(values, 16, {fit, 6}).entries, once);
  }
}

TEST(FitCodebook, TakesImportance) {
  const std::vector<float> values{0, 1, 10, 11}, importance{1, 3, 0, 2};
  FitOptions options;
  options.importance = importance;
  EXPECT_EQ(fit_codebook(values, 2, options).entries, (std::vector<float>{0.75F, 11}));
  options.fit = Fit::kLinear;
  EXPECT_EQ(fit_codebook(values, 2, options).entries, (std::vector<float>{0.75F, 11}));
}

TEST(FitCodebook, AgreesOnHalvesAndTheFloatsTheyAre) {
  auto values = drawn(70'000, 5, std::normal_distribution<>());
  std::vector<uint16_t> halves;
  for (float& value : values) {
    halves.push_back(pomona::bfloat16_from_float(value));
    value = pomona::float_from_bfloat16(halves.back());
  }
  const pomona::Values bits(halves.data(), static_cast<int64_t>(halves.size()),
                            pomona::DType::kBFloat16);
  const auto codebook = fit_codebook(bits, 15);
  EXPECT_EQ(codebook.entries, fit_codebook(values, 15).entries);
  EXPECT_EQ(assign_codes(bits, codebook), assign_codes(values, codebook));
}

TEST(FitCodebook, PricesTheBitsOfCodes) {
  const auto values = drawn(20'000, 6, std::normal_distribution<>());
  const auto entropy = [&](double rate) {
    FitOptions options;
    options.rate = rate;
    const auto codebook = fit_codebook(values, 32, options);
    std::vector<double> shares(codebook.entries.size(), 0.0);
    for (const uint8_t code : assign_codes(values, codebook)) shares[code] += 1.0 / 20'000;
    double bits = 0;
    for (const double share : shares) bits -= share > 0 ? share * std::log2(share) : 0;
    return bits;
  };
  EXPECT_GT(entropy(0), entropy(0.5));
  EXPECT_GT(entropy(0.5), entropy(2));
}

TEST(FitCodebook, RefusesBadOptions) {
  const std::vector<float> values{1, 2}, short_one{1}, negative{1, -1}, zeros{0, 0};
  const auto message = [&](const FitOptions& options) -> std::string {
    try {
      fit_codebook(values, 2, options);
    } catch (const pomona::InvalidArgument& error) {
      return error.what();
    }
    return "";
  };
  FitOptions options;
  options.importance = short_one;
  EXPECT_NE(message(options).find("each of the 2 values, got 1"), std::string::npos);
  options.importance = negative;
  EXPECT_NE(message(options).find("not negative, got -1 at 1"), std::string::npos);
  options.importance = zeros;
  EXPECT_NE(message(options).find("got zeros only"), std::string::npos);
  options.importance = {};
  options.rate = -1;
  EXPECT_NE(message(options).find("`rate` to be finite and not negative, got -1"),
            std::string::npos);
}

// Bins against the values themselves.
void expect_bins_serve(const std::vector<float>& values, int k) {
  constexpr double kMeant = 1e-6;
  const auto bins = pomona::binned_points(values, k, kMeant);
  ASSERT_TRUE(bins.has_value());
  const double binned = cost_of(*bins, optimal_partition(*bins, k));
  const double bound = bins->excess + bins->excess_rate * std::sqrt(binned);
  const Points exact = points_of(values);
  const double optimum = cost_of(exact, optimal_partition(exact, k));
  EXPECT_LE(bound, 4 * kMeant * binned) << k;
  // The cost of the points leaves out what lies within bins: it may be a little less.
  EXPECT_LE(binned, optimum + bound) << k;
  EXPECT_GE(binned, optimum * (1 - 1e-4)) << k;
}

TEST(BinnedPoints, CostNoMoreThanTheirBound) {
  const auto values = drawn(300'000, 8, std::normal_distribution<>(0, 0.02));
  expect_bins_serve(values, 2);
  expect_bins_serve(values, 16);
  expect_bins_serve(drawn(300'000, 9, std::exponential_distribution<>(3)), 8);
}

TEST(BinnedPoints, CountWidenedHalvesExactly) {
  auto values = drawn(50'000, 10, std::normal_distribution<>());
  for (float& value : values) {
    value = pomona::float_from_bfloat16(pomona::bfloat16_from_float(value));
  }
  const auto bins = pomona::binned_points(values, 16, 1e-6);
  const Points exact = points_of(values);
  ASSERT_TRUE(bins.has_value());
  EXPECT_EQ(bins->positions, exact.positions);
  EXPECT_EQ(bins->weights, exact.weights);
  EXPECT_EQ(bins->excess, 0.0);
}

TEST(BinnedPoints, LeaveHeapsToSorting) {
  std::vector<float> values;
  for (int i = 0; i < 10'000; ++i) values.push_back(static_cast<float>(i % 3) + 0.1F);
  EXPECT_FALSE(pomona::binned_points(values, 8, 1e-6).has_value());
}

TEST(BinnedPoints, DoNotDependOnThreads) {
  const auto values = drawn(200'000, 11, std::normal_distribution<>());
  const pomona::ParallelFor backwards = [](int64_t count, const auto& task) {
    for (int64_t i = count; i-- > 0;) task(i);
  };
  const auto here = pomona::binned_points(values, 16, 1e-6);
  const auto there = pomona::binned_points(values, 16, 1e-6, backwards);
  EXPECT_EQ(here->positions, there->positions);
  EXPECT_EQ(here->weights, there->weights);
}

}  // namespace
