// cuda/quantize/clusters_kernel.cuh in the emulator, against the definitions.

#include "cuda_emulator/every_order.h"
#include "quantize/clusters_kernel.cuh"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

namespace pomona::emulator {
namespace {

// 1000 elements in groups of 300, of 5 codes; code 0 is frozen in all of them, code 4 is unused.
struct Case {
  static constexpr int64_t kSize = 1000, kGroup = 300, kCodes = 5, kGroups = 4;
  std::vector<uint8_t> codes;
  std::vector<double> counts = std::vector<double>(kGroups * kCodes, 0.0);
  std::vector<int64_t> first = std::vector<int64_t>(kGroups * kCodes, -1);

  Case() {
    for (int64_t i = 0; i < kSize; ++i) {
      codes.push_back(static_cast<uint8_t>(i * 7 % 11 % 4));
      if (codes.back() == 0) continue;
      const size_t cluster = cluster_of(i);
      if (counts[cluster] == 0) first[cluster] = i;
      ++counts[cluster];
    }
  }
  size_t cluster_of(int64_t i) const {
    return static_cast<size_t>(i / kGroup * kCodes + codes[static_cast<size_t>(i)]);
  }
  DeviceLayout layout() const { return {codes.data(), 8, kSize, kGroup, kCodes}; }
};

class ClustersKernel : public InEveryOrder {
 protected:
  std::vector<float> pool(const Case& c, std::vector<float> gradient, bool mean) {
    const SumGrid grid = sum_grid<float>(c.layout());
    std::vector<float> partials(static_cast<size_t>(partial_count(c.layout(), grid)));
    std::vector<float> entries(c.counts.size());
    launch_pool<uint32_t>(launcher(), c.layout(), grid, c.counts.data(), mean, partials.data(),
                          entries.data(), gradient.data());
    return gradient;
  }
  std::vector<float> snap(const Case& c, std::vector<float> weights) {
    const SumGrid grid = sum_grid<double>(c.layout());
    std::vector<double> partials(static_cast<size_t>(partial_count(c.layout(), grid)));
    std::vector<float> entries(c.counts.size());
    launch_snap<uint32_t>(launcher(), c.layout(), grid, c.counts.data(), c.first.data(),
                          partials.data(), entries.data(), weights.data());
    return weights;
  }
};
INSTANTIATE_TEST_SUITE_P(Order, ClustersKernel, every_order(), order_name);

TEST_P(ClustersKernel, PoolsMeansAndSums) {
  const Case c;
  std::vector<float> gradient;
  std::vector<double> sums(c.counts.size(), 0.0);
  for (int64_t i = 0; i < Case::kSize; ++i) {
    gradient.push_back(static_cast<float>(i % 17) - 8);  // small integers: sums are exact
    sums[c.cluster_of(i)] += double{gradient.back()};
  }
  const auto means = pool(c, gradient, true), totals = pool(c, gradient, false);
  for (int64_t i = 0; i < Case::kSize; ++i) {
    const size_t cluster = c.cluster_of(i), at = static_cast<size_t>(i);
    const double count = c.counts[cluster];
    EXPECT_EQ(means[at], count == 0 ? 0.0F : static_cast<float>(sums[cluster] / count)) << i;
    EXPECT_EQ(totals[at], count == 0 ? 0.0F : static_cast<float>(sums[cluster])) << i;
  }
}

TEST_P(ClustersKernel, LeavesEqualMembersTheirBitsAndFrozenOnesZero) {
  const Case c;
  std::vector<float> weights, expected;
  for (int64_t i = 0; i < Case::kSize; ++i) {
    weights.push_back(0.1F * static_cast<float>(c.cluster_of(i) + 1));
    expected.push_back(c.codes[static_cast<size_t>(i)] == 0 ? 0.0F : weights.back());
  }
  const auto snapped = snap(c, weights);
  EXPECT_EQ(std::memcmp(snapped.data(), expected.data(), snapped.size() * sizeof(float)), 0);
}

TEST_P(ClustersKernel, SnapsToTheMean) {
  const Case c;
  std::vector<float> weights;
  std::vector<double> sums(c.counts.size(), 0.0);
  for (int64_t i = 0; i < Case::kSize; ++i) {
    weights.push_back(static_cast<float>(i % 13));
    sums[c.cluster_of(i)] += double{weights.back()};
  }
  const auto snapped = snap(c, weights);
  for (int64_t i = 0; i < Case::kSize; ++i) {
    const double count = c.counts[c.cluster_of(i)];
    const double mean = count == 0 ? 0.0 : sums[c.cluster_of(i)] / count;
    EXPECT_FLOAT_EQ(snapped[static_cast<size_t>(i)], static_cast<float>(mean)) << i;
  }
}

}  // namespace
}  // namespace pomona::emulator
