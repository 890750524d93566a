// Selection beside a literal reference: a stable argsort of |score|, masked weights first.
#include "pomona/error.h"
#include "pomona/selection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace {

using pomona::Mask;

template <class Float>
Mask reference(const std::vector<Float>& scores, double sparsity, const Mask& previous = {}) {
  const auto n = static_cast<int64_t>(scores.size());
  std::vector<int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  const auto is_kept = [&](int64_t i) { return previous.size() == 0 || previous[i]; };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    if (is_kept(a) != is_kept(b)) return !is_kept(a);
    if (!is_kept(a)) return false;
    return std::abs(scores[static_cast<size_t>(a)]) < std::abs(scores[static_cast<size_t>(b)]);
  });
  Mask mask = previous.size() == 0 ? Mask(n) : previous;
  const auto count = static_cast<int64_t>(std::floor(static_cast<double>(n) * sparsity + 0.5));
  for (int64_t rank = 0; rank < count; ++rank) mask.set(order[static_cast<size_t>(rank)], false);
  return mask;
}

template <class Float>
std::vector<Float> gaussian(size_t n, unsigned seed = 7) {
  std::mt19937 rng(seed);
  std::normal_distribution<Float> normal(0, Float(0.05));
  std::vector<Float> scores(n);
  for (auto& score : scores) score = normal(rng);
  return scores;
}

template <class Float>
Mask select(const std::vector<Float>& scores, double sparsity, const Mask& previous = {}) {
  return pomona::select_smallest(std::span<const Float>(scores), sparsity, previous);
}

std::string error_of(const std::vector<float>& scores, double sparsity, const Mask& mask = {}) {
  try {
    select(scores, sparsity, mask);
  } catch (const pomona::InvalidArgument& error) {
    return error.what();
  }
  return "";
}

constexpr size_t kSizes[] = {0, 1, 2, 7, 63, 64, 65, 127, 128, 129, 1000, 4099, 78400};
constexpr double kSparsities[] = {0, 1e-9, 0.1, 0.3, 0.5, 0.6, 0.91, 0.999, 0.9999999};

TEST(Selection, EqualsAStableSortOfMagnitudesInFloat) {
  for (const size_t n : kSizes) {
    for (const double sparsity : kSparsities) {
      const auto scores = gaussian<float>(n);
      EXPECT_EQ(select(scores, sparsity), reference(scores, sparsity)) << n << " " << sparsity;
    }
  }
}

TEST(Selection, EqualsAStableSortOfMagnitudesInDouble) {
  for (const size_t n : kSizes) {
    for (const double sparsity : kSparsities) {
      const auto scores = gaussian<double>(n);
      EXPECT_EQ(select(scores, sparsity), reference(scores, sparsity)) << n << " " << sparsity;
    }
  }
}

TEST(Selection, TellsDoublesApartThatAreEqualAsFloats) {
  const std::vector<double> scores{1 + 2e-16, 1 + 4e-16, 1.0, 1 + 8e-16};
  EXPECT_EQ(select(scores, 0.5), reference(scores, 0.5));
}

TEST(Selection, OfEqualMagnitudesTheLowerIndexGoesFirst) {
  for (const size_t n : kSizes) {
    std::vector<float> scores(n);
    for (size_t i = 0; i < n; ++i) scores[i] = (i % 2 == 0 ? 1.0f : -1.0f) * float(i % 3);
    for (const double sparsity : kSparsities) {
      EXPECT_EQ(select(scores, sparsity), reference(scores, sparsity)) << n << " " << sparsity;
    }
  }
}

TEST(Selection, OrdersZerosDenormalsAndTheLargestFloats) {
  using Limits = std::numeric_limits<float>;
  const std::vector<float> scores{
      Limits::max(),         -0.0f, Limits::denorm_min(), 0.0f,   Limits::min(), -0.0f,
      -Limits::denorm_min(), 1.0f,  -Limits::max(),       1e-40f, -1e-41f,       0.0f};
  for (double sparsity = 0; sparsity < 1; sparsity += 1.0 / 24) {
    EXPECT_EQ(select(scores, sparsity), reference(scores, sparsity)) << sparsity;
  }
}

TEST(Selection, PrunesAllOfATensorThatIsZero) {
  EXPECT_EQ(select(std::vector<float>(100), 0.5).kept(), 50);
  EXPECT_EQ(select(std::vector<float>(1), 0.5).kept(), 0);
}

TEST(Selection, CountsHalvesUp) {
  EXPECT_EQ(pomona::pruned_count(5, 0.5), 3);    // 2.5
  EXPECT_EQ(pomona::pruned_count(25, 0.1), 3);   // 2.5
  EXPECT_EQ(pomona::pruned_count(10, 0.25), 3);  // 2.5
  EXPECT_EQ(pomona::pruned_count(10, 0.2499), 2);
  EXPECT_EQ(pomona::pruned_count(1, 0.49), 0);
  EXPECT_EQ(pomona::pruned_count(0, 0.9), 0);
  EXPECT_EQ(pomona::pruned_count(int64_t{1} << 40, 0.5), int64_t{1} << 39);
}

TEST(Selection, PrunesExactlyTheCountAtEverySparsityOfASmallTensor) {
  const auto scores = gaussian<float>(97);
  for (int step = 0; step < 970; ++step) {
    const double sparsity = step / 970.0;
    EXPECT_EQ(97 - select(scores, sparsity).kept(), pomona::pruned_count(97, sparsity));
  }
}

TEST(Selection, KeepsMaskedWeightsMasked) {
  for (const size_t n : kSizes) {
    auto scores = gaussian<float>(n);
    const Mask previous = select(scores, 0.3);
    std::reverse(scores.begin(), scores.end());  // now large scores stand under the mask
    EXPECT_EQ(select(scores, 0.6, previous), reference(scores, 0.6, previous)) << n;
  }
}

TEST(Selection, AnUnmaskedZeroDoesNotReviveAMaskedOne) {
  Mask previous(4);
  previous.set(3, false);
  const Mask mask = select(std::vector<float>{0, 1, 2, 0}, 0.25, previous);
  EXPECT_EQ(mask, previous);
}

TEST(Selection, ReturnsAMaskThatAlreadyPrunesAsMany) {
  const auto scores = gaussian<float>(130);
  const Mask previous = select(scores, 0.9);
  EXPECT_EQ(select(scores, 0.5, previous), previous);
}

TEST(Selection, RefusesASparsityOutsideZeroToOne) {
  for (const double sparsity : {-0.1, 1.0, 2.0, std::nan("")}) {
    EXPECT_NE(error_of({1, 2}, sparsity).find("expected `sparsity` in [0, 1)"), std::string::npos);
  }
}

TEST(Selection, RefusesANegativeCount) {
  EXPECT_THROW(pomona::pruned_count(-1, 0.5), pomona::InvalidArgument);
}

TEST(Selection, NamesTheIndexOfAScoreThatIsNotFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(error_of({1, std::nanf("")}, 0.5),
            "select_smallest: expected `scores` to be finite, got NaN at index 1.");
  EXPECT_EQ(error_of({-infinity, 1}, 0.5),
            "select_smallest: expected `scores` to be finite, got Inf at index 0.");
}

TEST(Selection, RefusesAMaskOfAnotherSize) {
  EXPECT_EQ(error_of({1, 2}, 0.5, Mask(3)),
            "select_smallest: expected `previous` to be empty or of size 2, got 3.");
}

}  // namespace
