#pragma once
// Codebooks (thesis §4.2-4.3): 1-D k-means of a layer's weights. No torch.

#include "pomona/export.h"

#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

// How one parameter is shared: 2^bits codes. A parameter with zeros spends one of them (code 0) on
// 0.0 exactly, so that a filler is a no-op and a pruned weight costs no centroid. bits is 1 to 8.
struct Share {
  int bits = 8;
};

// k-means of `values` by Lloyd's algorithm from the thesis's linear init: k centroids equally
// spaced over [min, max] (thesis §4.3, Fig. 8: linear wins because large weights are few but matter
// most). Minimises sum (v - c)^2 locally. Returns at most k ascending, distinct centroids:
// centroids that end without a member are dropped, and when there are at most k distinct values
// those are returned as they are. O(n log n) once, then O(k log n) an iteration; deterministic.
// Throws InvalidArgument unless 1 <= k <= 256, and when values is empty or holds NaN or Inf.
POMONA_API std::vector<float> fit_codebook(std::span<const float> values, int k);

// The index of the nearest entry of an ascending codebook for each value; of two equally near the
// lower. O(n log k). Throws InvalidArgument when the codebook is empty, longer than 256 or not
// ascending.
POMONA_API std::vector<uint8_t> assign_codes(std::span<const float> values,
                                             std::span<const float> codebook);

}  // namespace pomona
