// Lloyd's algorithm on sorted scalars. A cluster is a run of the sorted values, so an iteration is
// k - 1 binary searches for the runs' ends and k differences of prefix sums:
//
//   sorted     -3 -2 | 0  1 | 4 5 9        ends    2 4 7
//   centroids   -2.5    0.5     6          a value on a midpoint belongs to the lower centroid
//
// Everything is in double, in which no sum of two floats overflows.

#include "quantize/kmeans_kernel.h"

#include "pomona/error.h"

#include "base/text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

namespace pomona {
namespace {

constexpr int kMaxCentroids = 256;
// Lloyd always ends, but slowly where centroids creep: each iteration costs microseconds and after
// this many the error no longer falls noticeably.
constexpr int kMaxIterations = 1000;

struct SortedValues {
  std::vector<float> values;
  std::vector<double> prefix;  // prefix[i] = the sum of the first i values

  explicit SortedValues(std::span<const float> unsorted)
      : values(unsorted.begin(), unsorted.end()) {
    for (float& value : values) value += 0.0F;  // -0.0 becomes 0.0: one value, not two
    std::sort(values.begin(), values.end());
    prefix.resize(values.size() + 1, 0.0);
    std::inclusive_scan(values.begin(), values.end(), prefix.begin() + 1, std::plus<>{}, 0.0);
  }

  // The mean of a run; inside the run also where the prefix sums have lost its digits.
  double mean(size_t begin, size_t end) const {
    const double sum = prefix[end] - prefix[begin];
    return std::clamp(sum / static_cast<double>(end - begin), double{values[begin]},
                      double{values[end - 1]});
  }

  // The same from the values themselves, for the result.
  double exact_mean(size_t begin, size_t end) const {
    const double sum = std::accumulate(values.begin() + static_cast<int64_t>(begin),
                                       values.begin() + static_cast<int64_t>(end), 0.0);
    return std::clamp(sum / static_cast<double>(end - begin), double{values[begin]},
                      double{values[end - 1]});
  }
};

// Equally spaced over [min, max]. Source: thesis §4.3, linear initialization.
std::vector<double> linear_init(const SortedValues& sorted, int k) {
  const double low = sorted.values.front(), high = sorted.values.back();
  std::vector<double> centroids(static_cast<size_t>(k), low);
  for (int j = 1; j < k; ++j) centroids[static_cast<size_t>(j)] = low + (high - low) * j / (k - 1);
  return centroids;
}

// ends[j] = one past the last value of cluster j. REQUIRES: centroids ascend.
std::vector<size_t> assign_runs(const SortedValues& sorted, const std::vector<double>& centroids) {
  std::vector<size_t> ends(centroids.size(), sorted.values.size());
  auto from = sorted.values.begin();
  for (size_t j = 0; j + 1 < centroids.size(); ++j) {
    const double midpoint = (centroids[j] + centroids[j + 1]) / 2;
    from = std::upper_bound(from, sorted.values.end(), midpoint,
                            [](double a, float b) { return a < double{b}; });
    ends[j] = static_cast<size_t>(from - sorted.values.begin());
  }
  return ends;
}

// A centroid without members stays where it is: its neighbours may move and leave it some.
void average_runs(const SortedValues& sorted, const std::vector<size_t>& ends,
                  std::vector<double>& centroids) {
  size_t begin = 0;
  for (size_t j = 0; j < ends.size(); begin = ends[j++]) {
    if (ends[j] > begin) centroids[j] = sorted.mean(begin, ends[j]);
  }
}

void check_fit(std::span<const float> values, int k) {
  if (k < 1 || k > kMaxCentroids) {
    throw InvalidArgument(text("fit_codebook: expected `k` in 1..256, got ", k, "."));
  }
  if (values.empty()) {
    throw InvalidArgument("fit_codebook: expected `values` to hold at least one value, got none.");
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    throw InvalidArgument(
        text("fit_codebook: expected `values` to be finite, got ", values[i], " at ", i, "."));
  }
}

void check_codebook(std::span<const float> codebook) {
  if (codebook.empty() || codebook.size() > kMaxCentroids) {
    throw InvalidArgument(text("assign_codes: expected `codebook` to have 1 to 256 entries, got ",
                               codebook.size(), "."));
  }
  for (size_t i = 0; i < codebook.size(); ++i) {
    if (!std::isnan(codebook[i]) && (i == 0 || codebook[i - 1] < codebook[i])) continue;
    throw InvalidArgument(
        text("assign_codes: expected `codebook` to ascend, got ", codebook[i], " at ", i, "."));
  }
}

// The largest double at which a value is still no farther from `low` than from `high`, so that
// `value <= boundary` decides exactly as real numbers would. The midpoint may need more digits than
// a double has; if the rounded one lies above the true one, no value may stand on it.
double exact_boundary(double low, double high) {
  const double sum = low + high;
  const double rounded_off =
      std::abs(low) < std::abs(high) ? low - (sum - high) : high - (sum - low);
  const double midpoint = sum / 2;
  return rounded_off < 0 ? std::nextafter(midpoint, -std::numeric_limits<double>::infinity())
                         : midpoint;
}

}  // namespace

std::vector<float> fit_codebook(std::span<const float> values, int k) {
  check_fit(values, k);
  const SortedValues sorted(values);
  std::vector<float> distinct;
  for (const float value : sorted.values) {
    if (!distinct.empty() && distinct.back() == value) continue;
    distinct.push_back(value);
    if (distinct.size() > static_cast<size_t>(k)) break;
  }
  if (distinct.size() <= static_cast<size_t>(k)) return distinct;

  std::vector<double> centroids = linear_init(sorted, k);
  std::vector<size_t> ends = assign_runs(sorted, centroids);
  for (int iteration = 0; iteration < kMaxIterations; ++iteration) {
    average_runs(sorted, ends, centroids);
    std::vector<size_t> moved = assign_runs(sorted, centroids);
    if (moved == ends) break;
    ends = std::move(moved);
  }
  // Runs hold different floats, so their means ascend strictly also after rounding to float.
  std::vector<float> codebook;
  size_t begin = 0;
  for (const size_t end : ends) {
    if (end > begin) codebook.push_back(static_cast<float>(sorted.exact_mean(begin, end)));
    begin = end;
  }
  return codebook;
}

std::vector<uint8_t> assign_codes(std::span<const float> values, std::span<const float> codebook) {
  check_codebook(codebook);
  std::vector<double> boundaries;
  for (size_t j = 0; j + 1 < codebook.size(); ++j) {
    boundaries.push_back(exact_boundary(codebook[j], codebook[j + 1]));
  }
  std::vector<uint8_t> codes;
  codes.reserve(values.size());
  for (const float value : values) {
    const auto boundary = std::lower_bound(boundaries.begin(), boundaries.end(), double{value});
    codes.push_back(static_cast<uint8_t>(boundary - boundaries.begin()));
  }
  return codes;
}

std::vector<uint8_t> assign_used_codes(std::span<const float> values,
                                       std::vector<float>& codebook) {
  std::vector<uint8_t> codes = assign_codes(values, codebook);
  std::array<bool, kMaxCentroids> is_used{};
  for (const uint8_t code : codes) is_used[code] = true;
  std::array<uint8_t, kMaxCentroids> renumbered{};
  size_t used = 0;
  for (size_t j = 0; j < codebook.size(); ++j) {
    if (!is_used[j]) continue;
    renumbered[j] = static_cast<uint8_t>(used);
    codebook[used++] = codebook[j];
  }
  codebook.resize(used);
  for (uint8_t& code : codes) code = renumbered[code];
  return codes;
}

Members members_of(std::span<const uint8_t> codes, int64_t k) {
  Members members{std::vector<double>(static_cast<size_t>(k), 0.0),
                  std::vector<int64_t>(static_cast<size_t>(k), -1)};
  for (size_t i = 0; i < codes.size(); ++i) {
    if (members.counts[codes[i]] == 0) members.first[codes[i]] = static_cast<int64_t>(i);
    ++members.counts[codes[i]];
  }
  return members;
}

}  // namespace pomona
