#include "prune/threshold_kernel.h"

#include "base/random.h"

#include <algorithm>
#include <cmath>

namespace pomona {

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
  uint64_t counter = mix_bits(seed + kGolden) + static_cast<uint64_t>(first) * kGolden;
  for (double& score : scores) {
    counter += kGolden;
    score = (static_cast<double>(mix_bits(counter) >> 11) + 0.5) * 0x1p-53;
  }
}

template POMONA_API Moments moments_of(std::span<const float>);
template POMONA_API Moments moments_of(std::span<const double>);
template POMONA_API Mask apply_thresholds(std::span<const float>, const Mask&, double, double);
template POMONA_API Mask apply_thresholds(std::span<const double>, const Mask&, double, double);

}  // namespace pomona
