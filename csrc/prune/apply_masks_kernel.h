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
#include <vector>

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

// One dimension within a row: how far a step goes in memory and in the mask's bits.
struct MaskedDim {
  int64_t size;
  int64_t stride;
  int64_t bit_stride;
};

// The dimensions within a row in the order of memory, the fastest last, neighbours merged where one
// continues the other: a contiguous row of any shape has one, channels_last has two.
inline std::vector<MaskedDim> memory_order(std::span<const int64_t> sizes,
                                           std::span<const int64_t> strides) {
  std::vector<MaskedDim> dims;
  int64_t bit_stride = 1;
  for (size_t d = sizes.size(); d-- > 0; bit_stride *= sizes[d]) {
    if (sizes[d] != 1) dims.push_back({sizes[d], strides[d], bit_stride});
  }
  std::stable_sort(dims.begin(), dims.end(),
                   [](const auto& a, const auto& b) { return a.stride < b.stride; });
  std::vector<MaskedDim> merged;  // fastest first
  for (const MaskedDim& dim : dims) {
    const bool continues = !merged.empty() &&
                           dim.stride == merged.back().stride * merged.back().size &&
                           dim.bit_stride == merged.back().bit_stride * merged.back().size;
    if (continues) {
      merged.back().size *= dim.size;
    } else {
      merged.push_back(dim);
    }
  }
  if (merged.empty()) merged.push_back({1, 1, 1});  // rows of one element
  std::reverse(merged.begin(), merged.end());
  return merged;
}

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

// One row whose elements lie in memory as their bits do in the mask.
template <class Word>
void apply_mask_contiguous(Word* row, const uint8_t* mask, int64_t size) {
  for (; size >= 8; size -= 8, row += 8, ++mask) {
    const auto& low = kKeepNibble<Word>[*mask & 15];
    const auto& high = kKeepNibble<Word>[*mask >> 4];
    for (size_t j = 0; j < 4; ++j) row[j] &= low[j];
    for (size_t j = 0; j < 4; ++j) row[j + 4] &= high[j];
  }
  for (int64_t j = 0; j < size; ++j) {
    if (((*mask >> j) & 1) == 0) row[j] = 0;
  }
}

// One row of any strides, dimension by dimension. REQUIRES: at least one. No branch on the bits:
// half of them would be mispredicted.
template <class Word>
void apply_mask_strided(Word* row, const uint8_t* mask, std::span<const MaskedDim> dims,
                        int64_t bit) {
  const MaskedDim dim = dims[0];
  for (int64_t i = 0; i < dim.size; ++i, row += dim.stride, bit += dim.bit_stride) {
    if (dims.size() > 1) {
      apply_mask_strided(row, mask, dims.subspan(1), bit);
    } else {
      const auto keep = static_cast<uint64_t>((mask[bit >> 3] >> (bit & 7)) & 1);
      *row = static_cast<Word>(*row & static_cast<Word>(uint64_t{0} - keep));
    }
  }
}

// Zeroes rows begin..end of `rows` where their mask bit is 0. Linear; rows may be shared out among
// threads.
template <class Word>
void apply_masks_rows(const MaskedRows<Word>& rows, int64_t begin, int64_t end) {
  const std::vector<MaskedDim> dims = memory_order(rows.sizes, rows.strides);
  const bool is_contiguous =
      dims.size() == 1 && dims[0].bit_stride == 1 && (dims[0].stride == 1 || dims[0].size == 1);
  for (int64_t r = begin; r < end; ++r) {
    Word* row = rows.data + r * rows.row_stride;
    const uint8_t* mask = rows.mask + r * rows.mask_stride();
    if (is_contiguous) {
      apply_mask_contiguous(row, mask, rows.row_size);
    } else {
      apply_mask_strided<Word>(row, mask, dims, 0);
    }
  }
}

}  // namespace pomona
