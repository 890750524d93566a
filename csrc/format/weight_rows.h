#pragma once
// A matrix cut by rows.

#include "pomona/export.h"
#include "pomona/weight.h"

#include <cstdint>

namespace pomona {

// The rows [first, last) of dimension 0, as pruned and shared as they were.
// REQUIRES: a checked weight of at least one dimension, 0 <= first <= last <= shape[0]; a
// codebook's elements, where there are several, do not cross the cuts: it divides a row, or holds
// whole ones.
POMONA_API Weight rows_of(const Weight& weight, int64_t first, int64_t last);

}  // namespace pomona
