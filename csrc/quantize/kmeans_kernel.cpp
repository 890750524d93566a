#include "quantize/kmeans_kernel.h"

#include "pomona/error.h"

#include "base/float16.h"
#include "base/text.h"
#include "quantize/assign_kernel.h"
#include "quantize/bins.h"
#include "quantize/lloyd_kernel.h"
#include "quantize/partition_kernel.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace pomona {
namespace {

constexpr size_t kMaxCentroids = 256;
constexpr int64_t kFewestForBins = int64_t{1} << 22;  // fewer are sorted as fast
constexpr double kMostExcess = 1e-6;  // that bins may add to the cost, as a share of it

float widened(const Values& values, size_t i) {
  const auto half = [&] { return static_cast<const uint16_t*>(values.data)[i]; };
  return values.dtype == DType::kFloat32    ? static_cast<const float*>(values.data)[i]
         : values.dtype == DType::kBFloat16 ? float_from_bfloat16(half())
                                            : float_from_float16(half());
}

// Whether all are, by the exponents: one pass that the compiler can vectorize.
template <class Bits>
bool all_finite(const void* data, size_t size, Bits exponent) {
  const auto* bits = static_cast<const Bits*>(data);
  bool is_finite = true;
  for (size_t i = 0; i < size; ++i) is_finite &= (bits[i] & exponent) != exponent;
  return is_finite;
}

bool all_finite(const Values& values) {
  const auto size = static_cast<size_t>(values.size);
  if (values.dtype == DType::kFloat32) {
    return all_finite<uint32_t>(values.data, size, 0x7f800000u);
  }
  const bool is_bfloat16 = values.dtype == DType::kBFloat16;
  return all_finite<uint16_t>(values.data, size, is_bfloat16 ? 0x7f80 : 0x7c00);
}

void check_importance(const Values& values, std::span<const float> importance) {
  if (importance.empty()) return;
  if (importance.size() != static_cast<size_t>(values.size)) {
    throw InvalidArgument(text("fit_codebook: expected `importance` of each of the ", values.size,
                               " values, got ", importance.size(), "."));
  }
  bool has_positive = false;
  for (size_t i = 0; i < importance.size(); ++i) {
    has_positive |= importance[i] > 0;
    if (importance[i] >= 0 && std::isfinite(importance[i])) continue;
    throw InvalidArgument(
        text("fit_codebook: expected `importance` to be finite and not negative, got ",
             importance[i], " at ", i, "."));
  }
  if (has_positive) return;
  throw InvalidArgument("fit_codebook: expected a positive `importance`, got zeros only.");
}

void check_fit(const Values& values, int k, const FitOptions& options) {
  if (k < 1 || k > static_cast<int>(kMaxCentroids)) {
    throw InvalidArgument(text("fit_codebook: expected `k` in 1..256, got ", k, "."));
  }
  if (values.dtype != DType::kFloat32 && values.dtype != DType::kFloat16 &&
      values.dtype != DType::kBFloat16) {
    throw InvalidArgument(
        text("fit_codebook: expected `values` of float32, float16 or bfloat16, got ",
             dtype_name(values.dtype), "."));
  }
  if (values.size == 0) {
    throw InvalidArgument("fit_codebook: expected `values` to hold at least one value, got none.");
  }
  if (!(options.rate >= 0) || std::isinf(options.rate)) {
    throw InvalidArgument(text("fit_codebook: expected `rate` to be finite and not negative, got ",
                               options.rate, "."));
  }
  if (!all_finite(values)) {
    for (size_t i = 0;; ++i) {
      if (std::isfinite(widened(values, i))) continue;
      throw InvalidArgument(text("fit_codebook: expected `values` to be finite, got ",
                                 widened(values, i), " at ", i, "."));
    }
  }
  check_importance(values, options.importance);
}

// The points of `values` and their best partition. Bins, where they serve; finer ones, when the
// bound of the first is too large.
std::pair<Points, Ends> exact_fit(const Values& values, int k, const FitOptions& options) {
  const auto fit = [&](Points points) {
    const auto most = std::min(static_cast<size_t>(k), points.size());
    Ends ends = optimal_partition(points, static_cast<int>(most));
    return std::pair(std::move(points), std::move(ends));
  };
  if (values.dtype == DType::kFloat32 && options.importance.empty() &&
      values.size >= kFewestForBins) {
    const std::span floats(static_cast<const float*>(values.data),
                           static_cast<size_t>(values.size));
    for (const double meant : {0.7 * kMostExcess, 0.15 * kMostExcess}) {
      auto points = binned_points(floats, k, meant, options.parallel);
      if (!points) break;
      auto fitted = fit(std::move(*points));
      const double cost = cost_of(fitted.first, fitted.second);
      const double excess = fitted.first.excess + fitted.first.excess_rate * std::sqrt(cost);
      if (excess <= kMostExcess * cost) return fitted;
    }
  }
  return fit(exact_points(values, options.importance));
}

std::pair<Points, Ends> lloyd_fit(const Values& values, int k, const FitOptions& options) {
  Points points = exact_points(values, options.importance);
  const auto most = std::min(static_cast<size_t>(k), points.size());
  Ends ends = lloyd_partition(points, static_cast<int>(most), options.fit, options.seed);
  return {std::move(points), std::move(ends)};
}

double mass_of(const Points& points, size_t begin, size_t end) {
  double mass = 0;
  for (size_t i = begin; i < end; ++i) mass += points.weights[i];
  return mass;
}

// As exact as real numbers would decide it: the largest double at which a value is still no farther
// from `low` than from `high`. The midpoint may need more digits than a double has; if the rounded
// one lies above the true one, no value may stand on it.
double exact_midpoint(double low, double high) {
  const double sum = low + high;
  const double rounded_off =
      std::abs(low) < std::abs(high) ? low - (sum - high) : high - (sum - low);
  const double midpoint = sum / 2;
  return rounded_off < 0 ? std::nextafter(midpoint, -std::numeric_limits<double>::infinity())
                         : midpoint;
}

// Means of clusters, which two different clusters may share once they are floats.
std::vector<float> means_of(const Points& points, const Ends& ends) {
  std::vector<float> means;
  size_t begin = 0;
  for (const size_t end : ends) {
    means.push_back(static_cast<float>(mean_of(points, begin, end)));
    begin = end;
  }
  means.erase(std::unique(means.begin(), means.end()), means.end());
  return means;
}

// Boundaries where a value costs as much with one code as with the next, code lengths included.
std::vector<double> priced_boundaries(const Points& points, const Ends& ends, double price,
                                      std::span<const float> entries) {
  const double total = mass_of(points, 0, points.size());
  std::vector<double> centroids(entries.begin(), entries.end()), costs;
  size_t begin = 0;
  for (const size_t end : ends) {
    costs.push_back(-price * std::log2(mass_of(points, begin, end) / total));
    begin = end;
  }
  return boundaries_of(centroids, costs);
}

}  // namespace

Codebook fit_codebook(const Values& values, int k, const FitOptions& options) {
  check_fit(values, k, options);
  auto [points, ends] =
      options.fit == Fit::kExact ? exact_fit(values, k, options) : lloyd_fit(values, k, options);
  if (options.rate == 0) return nearest_codebook(means_of(points, ends));
  const double mean_square = cost_of(points, ends) / mass_of(points, 0, points.size());
  const double price = options.rate * mean_square;
  ends = entropy_partition(points, std::move(ends), price);
  Codebook codebook{means_of(points, ends), {}};
  if (codebook.entries.size() != ends.size()) return nearest_codebook(std::move(codebook.entries));
  codebook.boundaries = priced_boundaries(points, ends, price, codebook.entries);
  return codebook;
}

Codebook nearest_codebook(std::vector<float> entries) {
  if (entries.empty() || entries.size() > kMaxCentroids) {
    throw InvalidArgument(
        text("nearest_codebook: expected 1 to 256 `entries`, got ", entries.size(), "."));
  }
  Codebook codebook{std::move(entries), {}};
  for (size_t j = 0; j < codebook.entries.size(); ++j) {
    const float entry = codebook.entries[j];
    if (std::isnan(entry) || (j > 0 && codebook.entries[j - 1] >= entry)) {
      throw InvalidArgument(
          text("nearest_codebook: expected `entries` to ascend, got ", entry, " at ", j, "."));
    }
    if (j > 0) codebook.boundaries.push_back(exact_midpoint(codebook.entries[j - 1], entry));
  }
  return codebook;
}

std::vector<uint8_t> assign_codes(const Values& values, const Codebook& codebook) {
  std::vector<uint8_t> codes(static_cast<size_t>(values.size));
  assign_codes(values, codebook.boundaries, codes);
  return codes;
}

std::vector<float> round_entries(std::span<const float> entries, EntryType type) {
  // The largest power of two with which the largest entry still fits in 16 bits.
  float largest = 0;
  for (const float entry : entries) largest = std::max(largest, std::abs(entry));
  int exponent = 0;
  std::frexp(largest, &exponent);  // largest < 2^exponent
  int shift = 15 - exponent;
  if (std::nearbyint(std::ldexp(largest, shift)) > 32767) --shift;
  const auto round = [&](float entry) {
    switch (type) {
      case EntryType::kFloat16:
        return float_from_float16(float16_from_float(entry));
      case EntryType::kBFloat16:
        return float_from_bfloat16(bfloat16_from_float(entry));
      case EntryType::kFixed16:
        return static_cast<float>(std::ldexp(std::nearbyint(std::ldexp(entry, shift)), -shift));
      default:
        return entry;
    }
  };
  std::vector<float> rounded;
  for (const float entry : entries) rounded.push_back(round(entry) + 0.0F);
  return rounded;
}

void drop_unused(std::vector<uint8_t>& codes, std::vector<float>& entries) {
  std::array<bool, kMaxCentroids> is_used{};
  for (const uint8_t code : codes) is_used[code] = true;
  std::array<uint8_t, kMaxCentroids> renumbered{};
  size_t used = 0;
  for (size_t j = 0; j < entries.size(); ++j) {
    if (!is_used[j]) continue;
    renumbered[j] = static_cast<uint8_t>(used);
    entries[used++] = entries[j];
  }
  if (used == entries.size()) return;
  entries.resize(used);
  for (uint8_t& code : codes) code = renumbered[code];
}

Members members_of(std::span<const uint8_t> codes, int64_t k, int64_t group) {
  const auto size = static_cast<int64_t>(codes.size());
  const int64_t groups = (size + group - 1) / group;
  Members members{std::vector<double>(static_cast<size_t>(groups * k), 0.0),
                  std::vector<int64_t>(static_cast<size_t>(groups * k), -1)};
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t i = g * group; i < std::min(size, (g + 1) * group); ++i) {
      const auto cluster = static_cast<size_t>(g * k + codes[static_cast<size_t>(i)]);
      if (members.counts[cluster] == 0) members.first[cluster] = i;
      ++members.counts[cluster];
    }
  }
  return members;
}

}  // namespace pomona
