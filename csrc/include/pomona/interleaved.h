#pragma once
// Interleaved columns: a compressed matrix as EIE keeps it, its rows dealt out over banks, each
// bank a list of columns. No torch.

#include "pomona/export.h"
#include "pomona/weight.h"

#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

inline constexpr int kMostInterleavedGapBits = 8;

// The rows r of a matrix with r mod banks = k, of a bank k: local row r div banks.
//
//   entries starts[j] to starts[j + 1] are column j, by ascending row. `gaps` counts the zeros of
//   this bank since the entry before in the column (since its top, for the first). A filler has
//   code 0 and the largest gap; it stands for 2^gap_bits zeros. A weight's code is one more than
//   its code in `Weight`. Zeros below the last weight of a column have no entry.
//
// Source: EIE §III-B and §III-C, Figure 3 (interleaved CSC: v = codes, z = gaps, p = starts).
struct POMONA_API InterleavedBank {
  std::vector<uint8_t> codes{};
  std::vector<uint8_t> gaps{};
  std::vector<int64_t> starts{};  // cols + 1
  int64_t fillers = 0;
  bool operator==(const InterleavedBank&) const = default;
};

// REQUIRES: weight.check() passed. Throws InvalidArgument, naming the weight, unless it is a matrix
// [rows, cols] with one codebook of at most 255 entries (or no kept weight); for banks below 1 and
// gap_bits outside 1..8. O(kept + fillers + banks * cols).
POMONA_API std::vector<InterleavedBank> interleaved_columns(const Weight& weight, int64_t banks,
                                                            int gap_bits = 4);

// The inverse: codes of a row-major matrix [rows, cols], 0 where there is no weight. Throws
// InvalidArgument for banks whose entries do not fit the shape.
POMONA_API std::vector<uint8_t> deinterleaved_codes(std::span<const InterleavedBank> banks,
                                                    int64_t rows, int64_t cols);

}  // namespace pomona
