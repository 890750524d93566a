#pragma once
// The layout lut: every weight as a code of four bits, for matrices that are shared and hardly
// pruned. Up to 16 values, zero among them where there are zeros.
//
//   y[r] = bias[r] + sum over all columns of  codebook[code(r, c)] * x[c]
//
// A row is cut into blocks of 128 columns, 64 bytes each: the nibble s of word l is the code of
// column 16 s + l, so that a shift brings 16 neighbouring codes into the low bits of 16 words,
// where a permute looks. Columns past the end have code 0 and meet x = 0.
//
//   byte 0   LutHeader    64 bytes
//       64   float        codebook[16]
//      128   uint32       words[rows][blocks][16]
//
// Source: thesis §4.2 (W[i][j] = codebook[codes[i][j]]), a look-up table in a register.

#include "pomona/export.h"
#include "pomona/packed.h"

#include "base/isa.h"
#include "infer/csr16_kernel.h"
#include "infer/packed_header.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace pomona {

inline constexpr uint8_t kLutVersion = 1;
inline constexpr int64_t kLutColumns = 128;  // of a block
inline constexpr int kLutCodes = 16;

struct LutHeader {
  uint32_t magic = kPackedMagic;
  uint8_t layout = static_cast<uint8_t>(Layout::kLut);
  uint8_t version = kLutVersion;
  uint16_t reserved = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t nnz = 0;
  int64_t size = 0;  // of all bytes
  int64_t unused[3] = {};
};
static_assert(sizeof(LutHeader) == 64);

struct LutView {
  LutHeader header;
  const float* codebook = nullptr;  // [16]
  const uint32_t* words = nullptr;  // [rows, blocks, 16]
  int64_t blocks() const { return (header.cols + kLutColumns - 1) / kLutColumns; }
};

// Why a matrix cannot have this layout; empty when it can. REQUIRES: as pack_csr16.
POMONA_API std::string why_not_lut(const Weight& matrix);
// REQUIRES: why_not_lut() is empty.
POMONA_API std::vector<std::byte> pack_lut(const Weight& matrix);
// Throws InvalidArgument that says what is wrong. O(1): every code is in the codebook.
POMONA_API LutView check_lut(std::span<const std::byte> bytes);
POMONA_API void unpack_lut(const LutView& matrix, float* dense);
// One row of it, [cols]. REQUIRES: 0 <= row < rows.
POMONA_API void unpack_lut_row(const LutView& matrix, int64_t row, float* dense);

// x with zeros up to whole blocks. REQUIRES: padded.size() == blocks * 128.
POMONA_API void pad_lut_input(const LutView& matrix, std::span<const float> x,
                              std::span<float> padded);

// y[r] for the rows of the range, from a padded x; bias [rows] or null. NaN and Inf as in a dense
// product. The sum of a row: lane l of 16 takes the columns l modulo 16, those of even s in one
// accumulator and of odd s in another, fused; both are added, then lanes l and l + 8, l + 4, l + 2,
// l + 1. The same bits in every instruction set. REQUIRES: has_isa(isa).
POMONA_API void multiply_lut(const LutView& matrix, const float* padded, const float* bias,
                             bool has_relu, float* y, RowRange range, Isa isa = Isa::kBest);

}  // namespace pomona
