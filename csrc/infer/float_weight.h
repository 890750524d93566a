#pragma once
// A weight as every packed layout takes it.

#include "pomona/weight.h"

namespace pomona {

// The same matrix in float32 (widened exactly), holding only weights that change a product: -0.0,
// which `weight *= mask` leaves of every pruned negative weight, is dropped like any zero.
// REQUIRES: weight passed check() and is float32, float16 or bfloat16.
Weight float_weight(const Weight& weight);

}  // namespace pomona
