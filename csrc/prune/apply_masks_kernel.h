#pragma once
// Zeroes the elements of a tensor whose mask bit is 0, whatever their type: an element is taken as
// an unsigned integer of its size and ANDed with all ones or all zeros. Selected, never multiplied:
// inf * 0 is NaN.
//
//   mask bytes, row-aligned        row 0 | b0..b7 | b8 .. - |     bit j of row r: bit j % 8 of
//   (weight [2, 11])               row 1 | b0..b7 | b8 .. - |     byte j / 8 of that row

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace pomona {

// A dense tensor as rows (dim 0) of a logical row-major order. Strides are in elements, in any
// order (channels_last), and need not be those of the weight. `sizes` and `strides` are those of
// the dimensions within a row.
template <class Word>
struct MaskedRows {
  Word* data;
  const uint8_t* mask;  // [rows, mask_stride], residency as data
  int64_t row_size;     // the product of sizes
  int64_t row_stride;
  std::span<const int64_t> sizes;
  std::span<const int64_t> strides;

  int64_t mask_stride() const { return (row_size + 7) / 8; }
};

// kKeepNibble<Word>[four mask bits][j] is all ones where bit j is set: one AND of a vector for four
// elements, which compilers make of the loop below without any instruction set beyond the baseline.
template <class Word>
inline constexpr auto kKeepNibble = [] {
  std::array<std::array<Word, 4>, 16> table{};
  for (size_t nibble = 0; nibble < 16; ++nibble) {
    for (size_t j = 0; j < 4; ++j) {
      table[nibble][j] = static_cast<Word>((nibble >> j) & 1 ? ~uint64_t{0} : 0);
    }
  }
  return table;
}();

// One row of contiguous elements.
template <class Word>
void apply_mask_contiguous(Word* row, const uint8_t* mask, int64_t size) {
  int64_t i = 0;
  for (; i + 4 <= size; i += 4) {
    const auto& keep = kKeepNibble<Word>[(mask[i / 8] >> (i % 8)) & 15];
    for (size_t j = 0; j < 4; ++j) row[i + static_cast<int64_t>(j)] &= keep[j];
  }
  for (; i < size; ++i) {
    if (((mask[i / 8] >> (i % 8)) & 1) == 0) row[i] = 0;
  }
}

// One row of any strides: dimension by dimension, the last in the inner loop. `bit` walks the row's
// logical order. REQUIRES: at least one dimension.
template <class Word>
void apply_mask_strided(Word* row, const uint8_t* mask, std::span<const int64_t> sizes,
                        std::span<const int64_t> strides, int64_t& bit) {
  for (int64_t i = 0; i < sizes[0]; ++i) {
    Word* element = row + i * strides[0];
    if (sizes.size() > 1) {
      apply_mask_strided(element, mask, sizes.subspan(1), strides.subspan(1), bit);
    } else {
      if (((mask[bit / 8] >> (bit % 8)) & 1) == 0) *element = 0;
      ++bit;
    }
  }
}

// Whether the elements of a row lie side by side in logical order.
inline bool is_contiguous_row(std::span<const int64_t> sizes, std::span<const int64_t> strides) {
  int64_t expected = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    if (sizes[d] != 1 && strides[d] != expected) return false;
    expected *= sizes[d];
  }
  return true;
}

// Zeroes rows begin..end of `rows` where their mask bit is 0. Linear; rows may be shared out among
// threads.
template <class Word>
void apply_masks_rows(const MaskedRows<Word>& rows, int64_t begin, int64_t end) {
  const bool is_contiguous = is_contiguous_row(rows.sizes, rows.strides);
  for (int64_t r = begin; r < end; ++r) {
    Word* row = rows.data + r * rows.row_stride;
    const uint8_t* mask = rows.mask + r * rows.mask_stride();
    int64_t bit = 0;
    if (is_contiguous) {
      apply_mask_contiguous(row, mask, rows.row_size);
    } else {
      apply_mask_strided(row, mask, rows.sizes, rows.strides, bit);
    }
  }
}

}  // namespace pomona
