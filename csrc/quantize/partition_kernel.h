#pragma once
// The exact optimum of weighted 1-D k-means: points in ascending order are cut into k runs whose
// sum of weight * (position - mean of the run)^2 is the least possible. No torch.

#include "quantize/points.h"

namespace pomona {

// The ends of the k runs of the optimal partition. O(n) memory. Up to kDirectAtMost points cost
// O(k n log n) steps on costs without cancellation; more cost O(n log n) steps for each of the few
// prices that are tried (see the .cpp). REQUIRES: 1 <= k <= points.size().
POMONA_API Ends optimal_partition(const Points& points, int k);

inline constexpr size_t kDirectAtMost = 512;

}  // namespace pomona
