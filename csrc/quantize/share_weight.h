#pragma once
// The codebooks and codes of one parameter, from its values.

#include "pomona/quantize.h"

namespace pomona {

// Elements in a row of a parameter of this shape that share a codebook; 0: all. Throws
// InvalidArgument when the rule asks for channels of a parameter that has none.
int64_t group_of(const Share& rule, at::IntArrayRef shape, const std::string& name);

struct SharedWeight {
  at::Tensor codebook;  // [k] or [groups, k] of the weight's dtype, CPU; the zero included
  Sharer::Clusters clusters;
};

// REQUIRES: floating-point and dense; `importance` undefined or of its shape. Throws
// InvalidArgument, naming the parameter: NaN, Inf, all zeros, a bad importance. An empty weight
// gives an empty codebook.
SharedWeight share_weight(const at::Tensor& weight, const Share& rule, const at::Tensor& importance,
                          const std::string& name);

// The clusters of codes (uint8, CPU, contiguous, below k).
Sharer::Clusters clusters_of(const at::Tensor& codes, int64_t k, int64_t group, bool has_zero);

}  // namespace pomona
