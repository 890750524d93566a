#pragma once
// The layout csr16: compressed sparse rows with 16-bit columns, and 8-bit codes when the weight is
// shared. The portable reference that every other layout is measured and tested against.
//
//   y[r] = bias[r] + sum over the entries e of row r of  weight(e) * x[column(e)]
//
// A column takes 16 bits, so a matrix wider than 65,536 is cut into panels of 65,536 columns; the
// entries of (row r, panel p) are row_starts[r * panels + p] to row_starts[r * panels + p + 1].
// Entries stand row after row, by ascending column, so panels change no order. One panel is plain
// CSR.
//
//   W = | 0  2  0  1 |   rows 2, cols 4, nnz 3, one panel     codebook  { 1, 2 }
//       | 0  0  2  0 |                                        row_starts  0 2 3
//                                                             columns  1 3 | 2    codes  1 0 | 1
//
// The bytes, in the byte order of the machine (little-endian). Sections begin at multiples of 16
// and are padded with zeros up to the next one:
//
//   byte  0  Csr16Header                       80 bytes
//        80  int64  row_starts[rows * panels + 1]   from 0 up to nnz, never falling
//            uint16 columns[nnz]                    within the panel, ascending
//            uint8  codes[nnz], or float values[nnz] when centroids is 0
//            float  codebook[centroids]             none when centroids is 0
//
// Every offset follows from rows, cols, nnz and centroids; check_csr16 recomputes them all. A
// kernel that cannot read the header before it starts (CUDA) compares rows and cols with its
// arguments on the device and gives NaN where they differ.
//
// Source: thesis §4.8 (batch-1 inference is a sparse matrix-vector product). 24 bits a nonzero with
// a codebook.

#include "pomona/export.h"
#include "pomona/packed.h"

#include "infer/packed_header.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pomona {

inline constexpr uint8_t kCsr16Version = 1;
inline constexpr int64_t kCsr16PanelCols = 65536;

struct Csr16Header {
  uint32_t magic = kPackedMagic;
  uint8_t layout = static_cast<uint8_t>(Layout::kCsr16);
  uint8_t version = kCsr16Version;
  uint16_t reserved = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t nnz = 0;
  int64_t centroids = 0;  // 0: not shared
  // Where the sections begin, in bytes from the header; `size` is the end of the last.
  int64_t row_starts_at = 0;
  int64_t columns_at = 0;
  int64_t weights_at = 0;
  int64_t codebook_at = 0;
  int64_t size = 0;
};
static_assert(sizeof(Csr16Header) == 80);

// The sections of a buffer, as pointers into it.
struct Csr16View {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t nnz = 0;
  int64_t panels = 1;
  int64_t centroids = 0;
  const int64_t* row_starts = nullptr;  // [rows * panels + 1]
  const uint16_t* columns = nullptr;    // [nnz]
  const uint8_t* codes = nullptr;       // [nnz], or null when not shared
  const float* values = nullptr;        // [nnz], or null when shared
  const float* codebook = nullptr;      // [centroids], or null when not shared
};

// Rows [first, last) of a matrix.
struct RowRange {
  int64_t first = 0;
  int64_t last = 0;
};

// Panels of a matrix of this width; 1 when it has no columns.
constexpr int64_t csr16_panels(int64_t cols) {
  return cols <= kCsr16PanelCols ? 1 : (cols - 1) / kCsr16PanelCols + 1;
}

// The bytes of a matrix. REQUIRES: weight is what float_weight() gives, finite and of two
// dimensions.
POMONA_API std::vector<std::byte> pack_csr16(const Weight& weight);

// The header, when the buffer is long enough, is aligned to 8 bytes and says that it is csr16 of
// this version and exactly this long. O(1): the sections are not looked at. Throws InvalidArgument.
POMONA_API Csr16Header read_csr16_header(std::span<const std::byte> bytes);

// Everything that pack_csr16 promises: offsets, row starts, columns and codes in range. O(nnz).
// Throws InvalidArgument that says what is wrong and where.
POMONA_API Csr16View check_csr16(std::span<const std::byte> bytes);

// REQUIRES: check_csr16(bytes) passed.
POMONA_API Csr16View view_csr16(std::span<const std::byte> bytes);

// Writes the stored weights into a row-major matrix [rows, cols]. REQUIRES: dense holds zeros.
POMONA_API void unpack_csr16(const Csr16View& matrix, float* dense);
// The same of one row. REQUIRES: 0 <= row < rows; dense [cols] holds zeros.
POMONA_API void unpack_csr16_row(const Csr16View& matrix, int64_t row, float* dense);

// y[b, r] = bias[r] + sum of weight * x[b, column], for the rows of the range and every b; x is
// [batch, cols], y [batch, rows], bias [rows] or null.
//
// The sum of one element: entry i of each panel of the row goes to accumulator i mod 4, in order;
// then (s0 + s1) + (s2 + s3), panel after panel, then the bias. So its bits depend neither on the
// batch nor on how rows are split over threads. NaN and Inf in x reach y through stored entries
// only; who wants 0 * Inf = NaN of pruned weights, as a dense product has it, adds that.
POMONA_API void multiply_csr16(const Csr16View& matrix, const float* x, int64_t batch,
                               const float* bias, float* y, RowRange range);

// Part `part` of `parts` of the rows, of about nnz / parts entries each. The parts are disjoint
// and cover every row.
POMONA_API RowRange csr16_part(const Csr16View& matrix, int64_t part, int64_t parts);

}  // namespace pomona
