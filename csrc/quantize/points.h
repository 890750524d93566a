#pragma once
// What k-means looks at: the distinct values in ascending order, each with the weight of all the
// elements that have it. No torch.

#include "pomona/codebook.h"

#include <cstddef>
#include <span>
#include <vector>

namespace pomona {

struct Points {
  std::vector<double> positions;  // ascending, distinct
  std::vector<double> weights;    // positive
  // How much more than the optimum the best partition of these points may cost for the elements
  // themselves is at most `excess` + `excess_rate` * sqrt(the cost of the points). Both 0 where
  // each position is a value; more for bins (bins.h).
  double excess = 0.0;
  double excess_rate = 0.0;

  size_t size() const { return positions.size(); }
};

// Each distinct value once; those of importance 0 leave. O(n log n) or, for 16-bit values, O(n).
// REQUIRES: values are finite; importance is empty, or finite, not negative and of the same size.
POMONA_API Points exact_points(const Values& values, std::span<const float> importance = {});

// Points with equal positions one after the other become one. REQUIRES: positions ascend.
void merge_equal(Points& points);

// The bounds of the clusters of a partition: cluster j is points [ends[j - 1], ends[j]), where
// ends[-1] is 0; no cluster is empty, and the last end is the number of points.
using Ends = std::vector<size_t>;

// The weighted mean of points [begin, end), inside of their range. REQUIRES: begin < end.
double mean_of(const Points& points, size_t begin, size_t end);

// The sum of weight * (position - mean of its cluster)^2.
POMONA_API double cost_of(const Points& points, const Ends& ends);

}  // namespace pomona
