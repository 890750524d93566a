#pragma once
// Permute-gather tiles: what the slots' codes stand for, in every arithmetic.

#include "pomona/packed.h"

#include "infer/pg_layout.h"

#include <span>

namespace pomona {

// `values` by code; the first is 0, of the empty slot. REQUIRES: at most 64.
PgCodebook make_pg_codebook(std::span<const float> values, PackedForm form, Precision precision);

}  // namespace pomona
