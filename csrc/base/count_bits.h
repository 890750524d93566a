#pragma once
// How many bits are set.

#include "pomona/export.h"

#include <cstdint>
#include <span>

namespace pomona {

// Uses the processor's instruction where there is one: compilers may not, for any x86-64.
POMONA_API int64_t count_bits(std::span<const uint64_t> words);

}  // namespace pomona
