#pragma once
// Weights of many kinds for round trips, the same on every machine.

#include "pomona/weight.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace pomona::testing {

template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// "w7".
inline std::string numbered_name(uint64_t number) {
  std::string name = std::to_string(number);
  name.insert(name.begin(), 'w');
  return name;
}

// Any dtype, 0 to 3 dimensions, any share of zeros, few or many distinct values, random bits (NaNs
// too).
inline Weight random_weight(std::mt19937_64& rng, std::string name) {
  const auto dtype = static_cast<DType>(rng() % kDTypeCount);
  const auto item = static_cast<size_t>(item_size(dtype));
  std::vector<int64_t> shape(rng() % 4);
  size_t numel = 1;
  for (auto& size : shape) {
    size = static_cast<int64_t>(rng() % 20);
    numel *= static_cast<size_t>(size);
  }
  const size_t distinct = 1 + rng() % (rng() % 2 == 0 ? 8 : 400);
  std::vector<std::byte> palette(distinct * item);
  for (auto& byte : palette) byte = static_cast<std::byte>(rng());
  const uint64_t rarity = 1 + rng() % (rng() % 2 == 0 ? 3 : 700);
  std::vector<std::byte> dense(numel * item);
  for (size_t i = 0; i < numel; ++i) {
    if (rng() % rarity != 0) continue;
    std::memcpy(dense.data() + i * item, palette.data() + rng() % distinct * item, item);
  }
  return make_weight(std::move(name), dtype, std::move(shape), dense);
}

// A layer as the thesis leaves it: `kept_percent` of the weights, `centroids` values, two peaks.
inline Weight thesis_layer(std::mt19937_64& rng, std::string name, std::vector<int64_t> shape,
                           uint64_t kept_percent, int centroids) {
  Weight weight{.name = std::move(name), .shape = std::move(shape)};
  weight.mask = Mask(weight.numel(), false);
  for (int i = 0; i < centroids; ++i) {
    const float magnitude = 0.01f * static_cast<float>(1 + i / 2);
    weight.codebook.push_back(i % 2 == 0 ? -magnitude : magnitude);
  }
  std::sort(weight.codebook.begin(), weight.codebook.end());
  const auto k = static_cast<uint64_t>(centroids);
  for (int64_t i = 0; i < weight.mask.size(); ++i) {
    if (rng() % 100 >= kept_percent) continue;
    weight.mask.set(i, true);
    const uint64_t from_middle = rng() % (1 + rng() % (k / 2));
    const uint64_t code = rng() % 2 == 0 ? k / 2 + from_middle : k / 2 - 1 - from_middle;
    weight.codes.push_back(static_cast<uint8_t>(code));
  }
  return weight;
}

}  // namespace pomona::testing
