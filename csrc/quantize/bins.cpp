// The range is cut into equal cells, each cell into equal bins, more where values are dense:
//
//   cell        0                 1         2
//   bins    |       |       | | | | | | | | |   |   |   |
//
// What binning can cost. Let c_1 < ... < c_k be the optimal centroids and t_j the midpoint of c_j
// and c_{j+1}. Only bins with a midpoint inside are split by the optimum. Giving all of such a bin,
// of m values over a width d, to one side of t_j costs, for each value x that changes sides,
// (x - c_j)^2 - (x - c_{j+1})^2 = 2 (c_{j+1} - c_j) (x - t_j). If a share a of the m values lies
// right of t_j, and t_j lies s d into the bin, moving those costs at most 2 gap a m (1 - s) d, and
// moving the others at most 2 gap (1 - a) m s d; the smaller of the two is at most 2 gap m d / 4.
// (Several midpoints in one bin: the differences telescope, and giving the bin to the first
// centroid for which "right of t_j" is the cheaper side bounds each term in the same way.) The gaps
// add up to no more than the range R, so the best partition of whole bins costs at most
//
//   R / 2 * max over bins of m d       more than the optimum. (excess)
//
// Bins of equal m d are therefore the best for their number. Their mean position is kept to
// e = d / 65536: costs change by at most 2 sqrt(sum m e^2) sqrt(cost) (Cauchy-Schwarz), for the
// partition that is chosen and for the one that should have been.                     (excess_rate)

#include "quantize/bins.h"

#include "quantize/partition_kernel.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <mutex>

namespace pomona {
namespace {

constexpr size_t kCells = size_t{1} << 13;
constexpr size_t kMostBins = size_t{1} << 24;  // 400 MB; beyond, sorting needs no more
constexpr size_t kSlice = size_t{1} << 23;     // values of one task; their sums fit in 40 bits
constexpr size_t kBlock = 512;
constexpr int kFractionBits = 16;
constexpr int kSumBits = 40;  // of a bin: count << kSumBits | sum of fractions

struct Range {
  float low = 0, high = 0;
  uint32_t used_bits = 0;  // the or of all bit patterns

  void add(const Range& other) {
    low = std::min(low, other.low);
    high = std::max(high, other.high);
    used_bits |= other.used_bits;
  }
};

Range range_of(std::span<const float> values) {
  Range range{values[0], values[0], 0};
  for (const float value : values) {
    range.low = std::min(range.low, value);
    range.high = std::max(range.high, value);
    range.used_bits |= std::bit_cast<uint32_t>(value);
  }
  return range;
}

// task(slice) for each slice of the values, on any threads.
void for_slices(std::span<const float> values, const ParallelFor& parallel,
                const std::function<void(std::span<const float>)>& task) {
  const size_t slices = (values.size() + kSlice - 1) / kSlice;
  const auto one = [&](int64_t i) {
    const size_t begin = static_cast<size_t>(i) * kSlice;
    task(values.subspan(begin, std::min(kSlice, values.size() - begin)));
  };
  if (parallel) return parallel(static_cast<int64_t>(slices), one);
  for (size_t i = 0; i < slices; ++i) one(static_cast<int64_t>(i));
}

// Values whose last bits are all 0 are few: one counter for each that is possible.
Points counted_points(std::span<const float> values, int shift, const ParallelFor& parallel) {
  const size_t patterns = size_t{1} << (32 - shift);
  std::vector<int64_t> counts(patterns, 0);
  std::mutex mutex;
  for_slices(values, parallel, [&](std::span<const float> slice) {
    std::vector<uint32_t> own(patterns, 0);
    for (const float value : slice) ++own[std::bit_cast<uint32_t>(value) >> shift];
    const std::lock_guard lock(mutex);
    for (size_t i = 0; i < patterns; ++i) counts[i] += own[i];
  });
  Points points;
  const auto add = [&](size_t pattern) {
    if (counts[pattern] == 0) return;
    const float value = std::bit_cast<float>(static_cast<uint32_t>(pattern << shift)) + 0.0F;
    points.positions.push_back(double{value});
    points.weights.push_back(static_cast<double>(counts[pattern]));
  };
  for (size_t pattern = patterns; pattern-- > patterns / 2;) add(pattern);
  for (size_t pattern = 0; pattern < patterns / 2; ++pattern) add(pattern);
  merge_equal(points);
  return points;
}

// Where a value lies: which cell, and how far into it, in [0, 1).
struct Cells {
  double low, per_unit;

  explicit Cells(const Range& range)
      : low(double{range.low}),
        per_unit(static_cast<double>(kCells) / (double{range.high} - double{range.low})) {}
  double width() const { return 1 / per_unit; }
  std::pair<size_t, double> find(float value) const {
    const double distance = (double{value} - low) * per_unit;
    const int cell = std::min(static_cast<int>(distance), static_cast<int>(kCells) - 1);
    return {static_cast<size_t>(cell), distance - cell};  // 1 at the very end
  }
};

std::vector<double> count_cells(std::span<const float> values, const Cells& cells,
                                const ParallelFor& parallel) {
  std::vector<double> counts(kCells, 0.0);
  std::mutex mutex;
  for_slices(values, parallel, [&](std::span<const float> slice) {
    constexpr size_t kCopies = 4;  // equal neighbours do not wait for one another
    std::array<std::vector<uint32_t>, kCopies> own;
    for (auto& copy : own) copy.resize(kCells);
    size_t i = 0;
    for (; i + kCopies <= slice.size(); i += kCopies) {
      for (size_t j = 0; j < kCopies; ++j) ++own[j][cells.find(slice[i + j]).first];
    }
    for (; i < slice.size(); ++i) ++own[0][cells.find(slice[i]).first];
    const std::lock_guard lock(mutex);
    for (const auto& copy : own) {
      for (size_t cell = 0; cell < kCells; ++cell) counts[cell] += copy[cell];
    }
  });
  return counts;
}

// How many bins each cell gets, as the first bin of each; the last entry is how many there are.
struct Layout {
  std::vector<uint32_t> first;   // [kCells + 1]
  std::vector<double> per_cell;  // [kCells]
};

// How many bins of a cell keep m d at most `most`. A bin's m varies about its mean: by four
// deviations of a Poisson count, and 3 for counts below one.
double bins_for(double count, double width, double most) {
  if (count == 0) return 1;
  double bins = std::max(1.0, std::sqrt(count * width / most));
  for (int i = 0; i < 8; ++i) {  // converges from below
    const double mean = count / bins;
    bins = std::max(1.0, (mean + 4 * std::sqrt(mean) + 3) * width / most * 0.5 + bins * 0.5);
  }
  return std::ceil(bins);
}

std::optional<Layout> lay_out(const std::vector<double>& counts, const Cells& cells, int k,
                              double meant_excess) {
  Points points;
  for (size_t cell = 0; cell < kCells; ++cell) {
    if (counts[cell] == 0) continue;
    points.positions.push_back((static_cast<double>(cell) + 0.5) * cells.width());
    points.weights.push_back(counts[cell]);
  }
  if (points.size() <= 2 * static_cast<size_t>(k)) return std::nullopt;  // a few heaps
  const double cost = cost_of(points, optimal_partition(points, k));
  const double range = static_cast<double>(kCells) * cells.width();
  const double most = 2 * meant_excess * cost / range;  // m d of a bin
  Layout layout{{0}, {}};
  size_t bins = 0;
  for (const double count : counts) {
    const double wanted = bins_for(count, cells.width(), most);
    layout.per_cell.push_back(std::min(wanted, static_cast<double>(kMostBins)));
    bins += static_cast<size_t>(layout.per_cell.back());
    if (bins > kMostBins) return std::nullopt;
    layout.first.push_back(static_cast<uint32_t>(bins));
  }
  return layout;
}

struct Bin {
  int64_t count = 0;
  int64_t fractions = 0;  // the sum of how far values lie into it, in 1 / 65536
};

// Adds a block of values to the sums: first where each goes, so that the memory can be on its way,
// then the sums themselves: they fit in no cache.
void add_block(std::span<const float> values, const Cells& cells, const Layout& layout,
               std::span<uint64_t> sums) {
  constexpr double kFractions = 1 << kFractionBits;
  std::array<uint32_t, kBlock> bins, fractions;
  for (size_t i = 0; i < values.size(); ++i) {
    const auto [cell, into_cell] = cells.find(values[i]);
    const double into_bins = into_cell * layout.per_cell[cell];
    const auto first = static_cast<int>(layout.first[cell]);
    const auto last = static_cast<int>(layout.first[cell + 1]) - 1;
    const int bin = std::min(first + static_cast<int>(into_bins), last);
    bins[i] = static_cast<uint32_t>(bin);
    fractions[i] =
        static_cast<uint32_t>(static_cast<int>((into_bins - (bin - first)) * kFractions));
#if defined(__GNUC__)
    __builtin_prefetch(&sums[bins[i]], 1);
#endif
  }
  for (size_t i = 0; i < values.size(); ++i) {
    sums[bins[i]] += (uint64_t{1} << kSumBits) | fractions[i];
  }
}

std::vector<Bin> fill_bins(std::span<const float> values, const Cells& cells, const Layout& layout,
                           const ParallelFor& parallel) {
  std::vector<Bin> bins(layout.first.back());
  std::mutex mutex;
  for_slices(values, parallel, [&](std::span<const float> slice) {
    std::vector<uint64_t> sums(bins.size(), 0);
    for (size_t begin = 0; begin < slice.size(); begin += kBlock) {
      add_block(slice.subspan(begin, std::min(kBlock, slice.size() - begin)), cells, layout, sums);
    }
    const std::lock_guard lock(mutex);
    for (size_t i = 0; i < bins.size(); ++i) {
      bins[i].count += static_cast<int64_t>(sums[i] >> kSumBits);
      bins[i].fractions += static_cast<int64_t>(sums[i] & ((uint64_t{1} << kSumBits) - 1));
    }
  });
  return bins;
}

Points points_of(const std::vector<Bin>& bins, const Cells& cells, const Layout& layout) {
  Points points;
  double most = 0, squares = 0;  // max m d; sum m e^2
  for (size_t cell = 0; cell < kCells; ++cell) {
    const double width = cells.width() / layout.per_cell[cell];
    const double begin = cells.low + static_cast<double>(cell) * cells.width();
    for (size_t bin = layout.first[cell]; bin < layout.first[cell + 1]; ++bin) {
      if (bins[bin].count == 0) continue;
      const auto count = static_cast<double>(bins[bin].count);
      constexpr double kFractions = 1 << kFractionBits;
      const double mean = (static_cast<double>(bins[bin].fractions) / count + 0.5) / kFractions;
      const auto index = static_cast<double>(bin - layout.first[cell]);
      points.positions.push_back(begin + (index + mean) * width);
      points.weights.push_back(count);
      most = std::max(most, count * width);
      squares += count * (width / kFractions) * (width / kFractions);
    }
  }
  constexpr double kRounding = 1 + 1e-6;  // of the bins' bounds
  points.excess = kRounding * static_cast<double>(kCells) * cells.width() / 2 * most;
  points.excess_rate = kRounding * 4 * std::sqrt(squares);
  return points;
}

}  // namespace

std::optional<Points> binned_points(std::span<const float> values, int k, double meant_excess,
                                    const ParallelFor& parallel) {
  Range range{values[0], values[0], 0};
  std::mutex mutex;
  for_slices(values, parallel, [&](std::span<const float> slice) {
    const Range own = range_of(slice);
    const std::lock_guard lock(mutex);
    range.add(own);
  });
  constexpr int kCountable = 13;  // float16 that was widened; bfloat16 has 16
  if (const int zeros = std::countr_zero(range.used_bits); zeros >= kCountable) {
    return counted_points(values, std::min(zeros, 16), parallel);
  }
  const Cells cells(range);
  if (!std::isfinite(cells.per_unit) || cells.per_unit * cells.width() == 0) return std::nullopt;
  const auto layout = lay_out(count_cells(values, cells, parallel), cells, k, meant_excess);
  if (!layout) return std::nullopt;
  return points_of(fill_bins(values, cells, *layout, parallel), cells, *layout);
}

}  // namespace pomona
