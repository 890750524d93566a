#pragma once
// The plain values of a weight as the float32 that every packed layout computes in.

#include "pomona/weight.h"

#include <vector>

namespace pomona {

// One float per kept weight, widened exactly; empty when the weight is shared (its codebook is
// float32 already). REQUIRES: float32, float16 or bfloat16.
std::vector<float> float_values(const Weight& weight);

}  // namespace pomona
