#pragma once
// Which weights go: exact, deterministic selection of the smallest magnitudes, without a sort.

#include "pomona/export.h"
#include "pomona/mask.h"

#include <span>

namespace pomona {

// How many of n weights a sparsity prunes: floor(n * sparsity + 0.5). Throws InvalidArgument unless
// 0 <= sparsity < 1.
POMONA_API int64_t pruned_count(int64_t n, double sparsity);

// Prunes exactly pruned_count(n, sparsity) weights: those already masked in `previous` first, then
// the smallest |score|; of equal ones the lower index goes first. When `previous` already prunes as
// many or more, it is returned as it is. An empty `previous` (size 0) prunes nothing. Linear time:
// a radix select over the bits of |score|, O(n) reads and 2^11 counters. Source: thesis §3.2
// (magnitude threshold); the exact count replaces the threshold. Throws InvalidArgument when
// sparsity is outside [0, 1), a score is NaN or infinite, or sizes differ.
POMONA_API Mask select_smallest(std::span<const float> scores, double sparsity,
                                const Mask& previous = {});
POMONA_API Mask select_smallest(std::span<const double> scores, double sparsity,
                                const Mask& previous = {});

}  // namespace pomona
