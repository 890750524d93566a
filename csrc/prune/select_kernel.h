#pragma once
// What selection.h promises, over plain spans. This header adds what only the prune chapter needs.

#include "pomona/export.h"
#include "pomona/mask.h"

#include <cstddef>
#include <optional>
#include <span>

namespace pomona {

// The largest |score| that `mask` prunes: what the thesis calls the threshold. 0 when it prunes
// none. REQUIRES: scores.size() == mask.size().
POMONA_API double pruned_threshold(std::span<const float> scores, const Mask& mask);
POMONA_API double pruned_threshold(std::span<const double> scores, const Mask& mask);

// The index of the first NaN or Inf.
POMONA_API std::optional<size_t> first_not_finite(std::span<const float> scores);
POMONA_API std::optional<size_t> first_not_finite(std::span<const double> scores);

}  // namespace pomona
