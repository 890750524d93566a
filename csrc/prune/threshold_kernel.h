#pragma once
// Masks by a threshold (thesis §3.2), with two of them in dynamic network surgery; and the scores
// of the random baseline.

#include "pomona/export.h"
#include "pomona/mask.h"

#include <cstdint>
#include <span>

namespace pomona {

// n, the sum and the sum of squares: what a standard deviation is made of, also over ranks.
struct POMONA_API Moments {
  double count = 0;
  double sum = 0;
  double squares = 0;

  // The sample standard deviation, as torch's std(); 0 for fewer than two values.
  double deviation() const;
};
template <class Float>
POMONA_API Moments moments_of(std::span<const Float> values);

// A kept weight goes when |score| < low, a pruned one comes back when |score| >= high. With `high`
// of infinity none does. Source: Guo et al., Dynamic Network Surgery, 2016, eq. 3.
// REQUIRES: scores.size() == previous.size().
template <class Float>
POMONA_API Mask apply_thresholds(std::span<const Float> scores, const Mask& previous, double low,
                                 double high);

// scores[i] = a number in (0, 1) that depends on `seed` and first + i alone: the same on every
// machine, and on every rank for its part of a tensor.
POMONA_API void fill_random(uint64_t seed, int64_t first, std::span<double> scores);

}  // namespace pomona
