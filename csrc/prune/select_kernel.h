#pragma once
// What selection.h promises, over plain spans. This header adds what only the prune chapter needs.

#include "pomona/export.h"
#include "pomona/selection.h"

#include <cstdint>
#include <optional>

namespace pomona {

// The index of the first NaN or Inf. REQUIRES: a floating-point dtype.
POMONA_API std::optional<int64_t> first_not_finite(const Scores& scores);

}  // namespace pomona
