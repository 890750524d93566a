#pragma once
// Lloyd's algorithm on weighted points of a line. No torch.

#include "quantize/points.h"

namespace pomona {

// Clusters by Lloyd's algorithm from the initialization of `fit` (not kExact). Centroids that end
// without a member are dropped. O(n) once, then O(k log n) an iteration; deterministic. REQUIRES:
// 1 <= k <= points.size().
POMONA_API Ends lloyd_partition(const Points& points, int k, Fit fit, uint64_t seed);

// Generalized Lloyd with a price on code lengths: from `ends`, minimises cost + price * sum of
// weight * bits, where the bits of a cluster are -log2 of its share of the weight.
POMONA_API Ends entropy_partition(const Points& points, Ends ends, double price);

// The lower envelope of (x - c_j)^2 + costs[j] over ascending centroids: below boundaries[j] the
// entries up to j are the least, of equal ones the lower. An entry that is nowhere the least has an
// empty interval (boundaries[j - 1] == boundaries[j]).
POMONA_API std::vector<double> boundaries_of(std::span<const double> centroids,
                                             std::span<const double> costs);

}  // namespace pomona
