#pragma once
// Which entry of a codebook each value takes. No torch.

#include "pomona/codebook.h"

#include "base/isa.h"

namespace pomona {

// codes[i] = how many of `boundaries` [at most 255], ascending, are below values[i]. REQUIRES:
// has_isa(isa); codes.size() == values.size.
POMONA_API void assign_codes(const Values& values, std::span<const double> boundaries,
                             std::span<uint8_t> codes, Isa isa = Isa::kBest);

}  // namespace pomona
