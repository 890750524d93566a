#pragma once
// Shared matrices for the tests of EIE.

#include "pomona/weight.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

namespace pomona::testing {

// Row-major values, at most 256 distinct ones beside 0, as a weight of one codebook.
inline Weight matrix(int64_t rows, int64_t cols, const std::vector<float>& values) {
  Weight weight{.name = "fc", .shape = {rows, cols}, .mask = Mask(rows * cols, false)};
  for (const float value : values) {
    if (value != 0) weight.codebook.push_back(value);
  }
  std::ranges::sort(weight.codebook);
  weight.codebook.erase(std::ranges::unique(weight.codebook).begin(), weight.codebook.end());
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] == 0) continue;
    weight.mask.set(static_cast<int64_t>(i), true);
    const auto at = std::ranges::lower_bound(weight.codebook, values[i]);
    weight.codes.push_back(static_cast<uint8_t>(at - weight.codebook.begin()));
  }
  if (weight.codebook.empty()) weight.codebook = {0.0f};
  return weight;
}

// Entries of +-1/16 to +-7/16 at this density.
inline std::vector<float> random_values(int64_t count, double density, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::uniform_real_distribution<double> uniform;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) {
    if (uniform(rng) >= density) continue;
    const auto level = static_cast<float>(1 + rng() % 7) / 16.0f;
    value = rng() % 2 ? level : -level;
  }
  return values;
}

inline std::vector<float> random_activations(int64_t count, double density, uint64_t seed) {
  auto values = random_values(count, density, seed);
  for (float& value : values) value = value < 0 ? -value : value;
  return values;
}

}  // namespace pomona::testing
