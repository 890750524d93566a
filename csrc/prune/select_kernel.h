#pragma once
// What selection.h promises, over plain spans. This header adds what only the prune chapter needs.

#include "pomona/export.h"
#include "pomona/selection.h"

#include <cstdint>
#include <optional>

namespace pomona {

// The index of the first NaN or Inf. REQUIRES: a floating-point dtype.
POMONA_API std::optional<int64_t> first_not_finite(const Scores& scores);

// The key (select_pass_kernel.h) of infinity: what is not below it, by magnitude, is not finite.
POMONA_API int64_t infinity_key(DType dtype);

// The score whose key it is (|score| unless by_value). REQUIRES: a floating-point dtype.
POMONA_API double score_of_key(int64_t key, DType dtype, bool by_value);

}  // namespace pomona
