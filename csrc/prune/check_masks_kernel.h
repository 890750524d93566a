#pragma once
// Counts the weights that are not zero although their mask's bit is 0, whatever their type: an IEEE
// number is zero when all its bits but the sign are.

#include "prune/apply_masks_kernel.h"

#include <cstdint>
#include <span>

namespace pomona {

template <class Word>
int64_t count_revived_row(const Word* row, const uint8_t* mask, std::span<const MaskedDim> dims,
                          int64_t bit) {
  const MaskedDim dim = dims[0];
  int64_t count = 0;
  for (int64_t i = 0; i < dim.size; ++i, row += dim.stride, bit += dim.bit_stride) {
    if (dims.size() > 1) {
      count += count_revived_row(row, mask, dims.subspan(1), bit);
    } else {
      const bool is_pruned = ((mask[bit >> 3] >> (bit & 7)) & 1) == 0;
      count += int64_t{is_pruned} & int64_t{static_cast<Word>(*row << 1) != 0};
    }
  }
  return count;
}

// Of all rows. Linear.
template <class Word>
int64_t count_revived(const MaskedRows<const Word>& rows, int64_t row_count) {
  const std::vector<MaskedDim> dims = memory_order(rows.sizes, rows.strides);
  int64_t count = 0;
  for (int64_t r = 0; r < row_count; ++r) {
    count += count_revived_row<Word>(rows.data + r * rows.row_stride,
                                     rows.mask + r * rows.mask_stride(), dims, 0);
  }
  return count;
}

}  // namespace pomona
