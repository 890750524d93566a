#pragma once
// The operators first_not_finite, select_histogram and select_mask: what their backends share.
//
// They are what radix_select_kernel.h asks of one tensor, so that scores are selected where they
// lie. A mask travels as int64 words [ceil(numel / 64)], bit i of word i / 64, row-major.

#include "pomona/export.h"
#include "pomona/weight.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace pomona {

// float16, bfloat16, float32 and float64, of which keys are made; nothing for the others.
POMONA_API std::optional<DType> selection_dtype(const at::Tensor& scores);

// Every backend's checks. Scores: dense, of a selection_dtype. Throw ValueError or TypeError.
void check_first_not_finite(const at::Tensor& scores);
// shift: 0, 11, 22, ... below the bits of a score; prefix: 0 or more, of the bits above the digit.
void check_select_histogram(const at::Tensor& scores, const at::Tensor& words, int64_t shift,
                            int64_t prefix);
// cut: a key (select_pass_kernel.h), as wide as a score; ties: 0 or more.
void check_select_mask(const at::Tensor& scores, const at::Tensor& words, int64_t cut,
                       int64_t ties);

// call(bits): of a contiguous tensor, as signed integers of a score's size.
template <class Call>
void with_score_bits(const at::Tensor& scores, Call call) {
  const void* data = scores.const_data_ptr();
  switch (scores.element_size()) {
    case 2:
      return call(static_cast<const int16_t*>(data));
    case 4:
      return call(static_cast<const int32_t*>(data));
    default:
      return call(static_cast<const int64_t*>(data));
  }
}

}  // namespace pomona
