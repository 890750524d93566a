#pragma once
// Which instructions a kernel may use. A kernel that has several forms takes an `Isa`, so that
// tests can force each.

#include "pomona/export.h"

namespace pomona {

// Each includes those before it: a kernel without a form for one takes the best before. kAvx2 is
// AVX2 and FMA; kAvx512 is F, BW, VL and DQ together; kAvx512BFloat16 has VNNI, VBMI and BF16.
// kBest: the best that this machine has.
enum class Isa { kPortable, kAvx2, kAvx512, kAvx512Vbmi, kAvx512Vnni, kAvx512BFloat16, kBest };

POMONA_API bool has_isa(Isa isa);

// `isa`, or what kBest stands for.
POMONA_API Isa resolve_isa(Isa isa);

}  // namespace pomona
