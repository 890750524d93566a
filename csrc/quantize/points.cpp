#include "quantize/points.h"

#include "base/float16.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <utility>

namespace pomona {
namespace {

constexpr int kDigitBits = 11;
constexpr size_t kDigits = size_t{1} << kDigitBits;

// An unsigned integer of the same order as the float. -0.0 must have become 0.0 before.
uint32_t ordered_bits(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
}

float from_ordered_bits(uint32_t key) {
  return std::bit_cast<float>(key ^ ((key >> 31) != 0 ? 0x80000000u : 0xffffffffu));
}

// A value and what it weighs; sorted as one, by the value.
struct Item {
  uint32_t key;
  float weight;
};
uint32_t key_of(uint32_t item) {
  return item;
}
uint32_t key_of(const Item& item) {
  return item.key;
}

// Least significant digit first: three passes of 11 bits, stable.
template <class Element>
void radix_sort(std::vector<Element>& items) {
  std::array<std::array<size_t, kDigits>, 3> counts{};
  for (const Element& item : items) {
    for (size_t pass = 0; pass < 3; ++pass) {
      ++counts[pass][(key_of(item) >> (pass * kDigitBits)) % kDigits];
    }
  }
  std::vector<Element> sorted(items.size());
  for (size_t pass = 0; pass < 3; ++pass) {
    size_t begin = 0;
    for (size_t& count : counts[pass]) begin += std::exchange(count, begin);
    for (const Element& item : items) {
      sorted[counts[pass][(key_of(item) >> (pass * kDigitBits)) % kDigits]++] = item;
    }
    items.swap(sorted);
  }
}

Points sorted_points(std::span<const float> values) {
  std::vector<uint32_t> keys;
  keys.reserve(values.size());
  for (const float value : values) keys.push_back(ordered_bits(value + 0.0F));
  radix_sort(keys);
  size_t distinct = 0;
  for (size_t i = 0; i < keys.size(); ++i) distinct += i == 0 || keys[i] != keys[i - 1];
  Points points;
  points.positions.reserve(distinct);
  points.weights.reserve(distinct);
  for (size_t begin = 0, end = 0; begin < keys.size(); begin = end) {
    while (end < keys.size() && keys[end] == keys[begin]) ++end;
    points.positions.push_back(double{from_ordered_bits(keys[begin])});
    points.weights.push_back(static_cast<double>(end - begin));
  }
  return points;
}

Points sorted_points(std::span<const float> values, std::span<const float> importance) {
  std::vector<Item> items;
  items.reserve(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    if (importance[i] > 0) items.push_back({ordered_bits(values[i] + 0.0F), importance[i]});
  }
  radix_sort(items);
  Points points;
  points.positions.reserve(items.size());
  points.weights.reserve(items.size());
  for (const Item& item : items) {
    points.positions.push_back(double{from_ordered_bits(item.key)});
    points.weights.push_back(double{item.weight});
  }
  merge_equal(points);
  return points;
}

// One counter for each of the 65,536 bit patterns.
Points counted_points(std::span<const uint16_t> values, float (*widen)(uint16_t),
                      std::span<const float> importance) {
  std::vector<double> weights(size_t{1} << 16, 0.0);
  if (importance.empty()) {
    std::vector<std::array<int64_t, 2>> counts(weights.size());  // equal neighbours do not wait
    for (size_t i = 0; i + 1 < values.size(); i += 2) {
      ++counts[values[i]][0];
      ++counts[values[i + 1]][1];
    }
    if (values.size() % 2 != 0) ++counts[values.back()][0];
    for (size_t bits = 0; bits < weights.size(); ++bits) {
      weights[bits] = static_cast<double>(counts[bits][0] + counts[bits][1]);
    }
  } else {
    for (size_t i = 0; i < values.size(); ++i) weights[values[i]] += double{importance[i]};
  }
  Points points;
  const auto add = [&](uint32_t bits) {
    if (weights[bits] == 0) return;
    points.positions.push_back(double{widen(static_cast<uint16_t>(bits)) + 0.0F});
    points.weights.push_back(weights[bits]);
  };
  for (uint32_t magnitude = 0x8000; magnitude-- > 0;) add(0x8000 | magnitude);  // most negative on
  for (uint32_t magnitude = 0; magnitude < 0x8000; ++magnitude) add(magnitude);
  merge_equal(points);
  return points;
}

}  // namespace

Points exact_points(const Values& values, std::span<const float> importance) {
  const auto size = static_cast<size_t>(values.size);
  if (values.dtype == DType::kFloat32) {
    const std::span floats(static_cast<const float*>(values.data), size);
    return importance.empty() ? sorted_points(floats) : sorted_points(floats, importance);
  }
  const std::span halves(static_cast<const uint16_t*>(values.data), size);
  const bool is_bfloat16 = values.dtype == DType::kBFloat16;
  return counted_points(halves, is_bfloat16 ? float_from_bfloat16 : float_from_float16, importance);
}

void merge_equal(Points& points) {
  size_t kept = 0;
  for (size_t i = 0; i < points.size(); ++i) {
    if (kept > 0 && points.positions[kept - 1] == points.positions[i]) {
      points.weights[kept - 1] += points.weights[i];
      continue;
    }
    points.positions[kept] = points.positions[i];
    points.weights[kept++] = points.weights[i];
  }
  points.positions.resize(kept);
  points.weights.resize(kept);
}

// As the first position plus the mean distance from it: no digits are lost where all are far from
// 0.
double mean_of(const Points& points, size_t begin, size_t end) {
  const double first = points.positions[begin], last = points.positions[end - 1];
  double mass = 0, moment = 0;
  for (size_t i = begin; i < end; ++i) {
    mass += points.weights[i];
    moment += points.weights[i] * (points.positions[i] - first);
  }
  return std::clamp(first + moment / mass, first, last);
}

double cost_of(const Points& points, const Ends& ends) {
  double cost = 0;
  size_t begin = 0;
  for (const size_t end : ends) {
    const double mean = mean_of(points, begin, end);
    for (; begin < end; ++begin) {
      const double distance = points.positions[begin] - mean;
      cost += points.weights[begin] * distance * distance;
    }
  }
  return cost;
}

}  // namespace pomona
