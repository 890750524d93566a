#pragma once
// The layout lut: every weight as a code of two, four or eight bits, for matrices that are shared
// and hardly pruned. Up to 256 values, zero among them where there are zeros.
//
//   y[r] = bias[r] + sum over all columns of  codebook[code(r, c)] * x[c]
//
// A row is cut into blocks of 64 bytes, 512 / bits codes. Code s of word l (bits `bits * s` and up)
// is that of column 16 s + l of the block, so that one shift brings 16 neighbouring codes into the
// low bits of 16 words, 32 of them (a block's halves) into those of 32 half-words, or 64 into those
// of 64 bytes, where a permute looks: the same bytes serve float32, pairs of bfloat16, and bytes.
// Columns past the end have code 0 and meet x = 0.
//
//   byte 0   LutHeader      64 bytes
//       64   LutCodebook  1344 bytes
//     1408   int32          sums[rows]  of the codebook's bytes, of kBytes only; then to 64 bytes
//            uint32         words[rows][blocks][16]
//
// Source: thesis §4.2 (W[i][j] = codebook[codes[i][j]]), a look-up table in a register.

#include "pomona/export.h"
#include "pomona/packed.h"

#include "infer/packed_header.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace pomona {

inline constexpr uint8_t kLutVersion = 2;
inline constexpr int64_t kLutWords = 16;  // of a block
// Of kBytes: more products could overflow 32 bits.
inline constexpr int64_t kLutMostColumns = int64_t{1} << 19;

struct LutHeader {
  uint32_t magic = kPackedMagic;
  uint8_t layout = static_cast<uint8_t>(Layout::kLut);
  uint8_t version = kLutVersion;
  uint8_t bits = 0;  // of a code: 2, 4 or 8
  uint8_t form = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t nnz = 0;
  int64_t size = 0;  // of all bytes
  uint8_t precision = 0;
  uint8_t unused[23] = {};
};
static_assert(sizeof(LutHeader) == 64);

// Entry i is that of code i modulo 2^bits: a permute may look at more bits than a code has.
struct LutCodebook {
  float values[256];
  int8_t bytes[256];  // about value / scale
  float scale;
  uint8_t reserved[60];
};
static_assert(sizeof(LutCodebook) == 1344);

struct LutView {
  LutHeader header;
  const LutCodebook* codebook = nullptr;
  const int32_t* sums = nullptr;    // [rows], null but for kBytes
  const uint32_t* words = nullptr;  // [rows, blocks, 16]
  PackedForm form() const { return static_cast<PackedForm>(header.form); }
  Precision precision() const { return static_cast<Precision>(header.precision); }
  int64_t block_cols() const { return 512 / header.bits; }
  int64_t blocks() const { return (header.cols + block_cols() - 1) / block_cols(); }
};

// How many bytes a matrix takes in this layout. REQUIRES: values, zero among them, is at most 256.
POMONA_API int64_t lut_bytes(int64_t rows, int64_t cols, int64_t values,
                             PackedForm form = PackedForm::kFloat32);

// Why a matrix cannot have this layout; empty when it can: more than 256 values, more than 16 in
// pairs of bfloat16, or values that bfloat16 does not hold exactly there, more than 2^19 columns in
// bytes, or fixed16. REQUIRES: as pack_csr16.
POMONA_API std::string why_not_lut(const Weight& matrix, PackedForm form, Precision precision);
// REQUIRES: why_not_lut() is empty.
POMONA_API std::vector<std::byte> pack_lut(const Weight& matrix, PackedForm form,
                                           Precision precision);
// Throws InvalidArgument that says what is wrong. O(1): every code is in the codebook.
POMONA_API LutView check_lut(std::span<const std::byte> bytes);
POMONA_API void unpack_lut(const LutView& matrix, float* dense);
// One row of it, [cols]. REQUIRES: 0 <= row < rows.
POMONA_API void unpack_lut_row(const LutView& matrix, int64_t row, float* dense);

}  // namespace pomona
