#pragma once
// Whether the values of a tensor are few: of all its weights, of each row of its first dimension,
// or of each group of weights of a row, as sharing with that granularity leaves them.

#include "pomona/weight.h"

#include <cstddef>
#include <optional>
#include <span>
#include <string>

namespace pomona {

// A codebook may be made of these dtypes: float32 holds their values exactly.
bool may_be_shared(DType dtype);

// The bit pattern of a value that the dtype holds, widened with zeros. REQUIRES: may_be_shared.
uint32_t bits_of(DType dtype, float value);
float value_of(DType dtype, uint32_t bits);

// -0.0 stands before 0.0; NaN stands nowhere.
bool is_before(float a, float b);

// What is wrong with one codebook: entries that do not ascend (then repeat the last, where
// `may_repeat`), or that the dtype does not hold.
std::optional<std::string> codebook_problem(DType dtype, std::span<const float> entries,
                                            bool may_repeat);

// Fills codebook, codes and group and returns true when that is smaller than plain values, or
// leaves the weight as it was. A NaN has no place in an ascending codebook, so its tensor keeps its
// values. REQUIRES: weight.mask marks the elements of `dense` that are not zero; may_be_shared.
bool find_codebooks(Weight& weight, std::span<const std::byte> dense);

// A weight of plain values as one with a single codebook, though that be larger; nothing when the
// values are not few or the dtype has no codebooks.
std::optional<Weight> with_codebook(const Weight& plain);

}  // namespace pomona
