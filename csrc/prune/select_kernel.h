#pragma once
// What selection.h promises, over plain spans. This header adds what only the prune chapter needs.

#include "pomona/mask.h"

#include <span>

namespace pomona {

// The largest |score| that `mask` prunes: what the thesis calls the threshold. 0 when it prunes
// none. REQUIRES: scores.size() == mask.size().
double pruned_threshold(std::span<const float> scores, const Mask& mask);
double pruned_threshold(std::span<const double> scores, const Mask& mask);

}  // namespace pomona
