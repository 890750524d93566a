#include "prune/threshold_kernel.h"

#include <algorithm>
#include <cmath>

namespace pomona {
namespace {

// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every bit of x moves every bit.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

double Moments::deviation() const {
  if (count < 2) return 0;
  return std::sqrt(std::max(squares - sum * sum / count, 0.0) / (count - 1));
}

template <class Float>
Moments moments_of(std::span<const Float> values) {
  Moments moments{static_cast<double>(values.size()), 0, 0};
  for (const Float value : values) {
    const auto x = static_cast<double>(value);
    moments.sum += x;
    moments.squares += x * x;
  }
  return moments;
}

template <class Float>
Mask apply_thresholds(std::span<const Float> scores, const Mask& previous, double low,
                      double high) {
  Mask mask = previous;
  for (size_t i = 0; i < scores.size(); ++i) {
    const double score = std::abs(static_cast<double>(scores[i]));
    const auto place = static_cast<int64_t>(i);
    mask.set(place, previous[place] ? score >= low : score >= high);
  }
  return mask;
}

void fill_random(uint64_t seed, int64_t first, std::span<double> scores) {
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;
  uint64_t counter = mix(seed + kGolden) + static_cast<uint64_t>(first) * kGolden;
  for (double& score : scores) {
    counter += kGolden;
    score = (static_cast<double>(mix(counter) >> 11) + 0.5) * 0x1p-53;
  }
}

template POMONA_API Moments moments_of(std::span<const float>);
template POMONA_API Moments moments_of(std::span<const double>);
template POMONA_API Mask apply_thresholds(std::span<const float>, const Mask&, double, double);
template POMONA_API Mask apply_thresholds(std::span<const double>, const Mask&, double, double);

}  // namespace pomona
