#pragma once
// The layout csc16: compressed sparse columns with 16-bit entries, for inputs that are mostly zero.
// Where x[c] is 0 nothing of column c is read.
//
//   y[r] = bias[r] + sum over the columns c with x[c] != 0 of  weight(r, c) * x[c]
//
// Rows are cut into blocks of 512, so that the sums of a block stay in the first cache and one
// thread writes them. An entry has the row within the block in its high nine bits and the code in
// its low seven: up to 128 values.
//
//   byte 0   Csc16Header   64 bytes
//       64   float         codebook[128]
//      576   uint32        starts[blocks][cols + 1]   from the first entry of the block
//            int64         blocks_at[blocks + 1]      the first entry of each block
//            uint16        entries[nnz]               by block, column, row
//
// Source: EIE (thesis §6.2): broadcast the nonzero activations, walk their columns.

#include "pomona/export.h"
#include "pomona/packed.h"

#include "infer/packed_header.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace pomona {

inline constexpr uint8_t kCsc16Version = 1;
inline constexpr int64_t kCsc16Rows = 512;  // of a block
inline constexpr int64_t kCsc16Codes = 128;

struct Csc16Header {
  uint32_t magic = kPackedMagic;
  uint8_t layout = static_cast<uint8_t>(Layout::kCsc16);
  uint8_t version = kCsc16Version;
  uint16_t reserved = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t nnz = 0;
  int64_t size = 0;   // of all bytes
  int64_t codes = 0;  // in use
  int64_t unused[2] = {};
};
static_assert(sizeof(Csc16Header) == 64);

struct Csc16View {
  Csc16Header header;
  const float* codebook = nullptr;     // [128]
  const uint32_t* starts = nullptr;    // [blocks, cols + 1]
  const int64_t* blocks_at = nullptr;  // [blocks + 1]
  const uint16_t* entries = nullptr;   // [nnz]
  int64_t blocks() const { return (header.rows + kCsc16Rows - 1) / kCsc16Rows; }
};

// Why a matrix cannot have this layout; empty when it can. REQUIRES: as pack_csr16.
POMONA_API std::string why_not_csc16(const Weight& matrix);
// REQUIRES: why_not_csc16() is empty.
POMONA_API std::vector<std::byte> pack_csc16(const Weight& matrix);
// Everything that pack_csc16 promises. O(nnz). Throws InvalidArgument that says what is wrong.
POMONA_API Csc16View check_csc16(std::span<const std::byte> bytes);
// O(1). REQUIRES: check_csc16(bytes) passed; throws InvalidArgument when the header says that it
// cannot have.
POMONA_API Csc16View view_csc16(std::span<const std::byte> bytes);
// Writes the stored weights into a row-major matrix [rows, cols]. REQUIRES: dense holds zeros.
POMONA_API void unpack_csc16(const Csc16View& matrix, float* dense);

// The nonzeros of x, which a call finds once.
struct Csc16Input {
  const uint32_t* columns = nullptr;
  const float* values = nullptr;
  int64_t count = 0;
  int64_t not_finite = 0;  // of them
};

// Bytes that make_csc16_input writes.
POMONA_API int64_t csc16_input_bytes(const Csc16View& matrix);
// REQUIRES: x.size() == cols; scratch.size() == csc16_input_bytes(), 4-byte aligned.
POMONA_API Csc16Input make_csc16_input(std::span<const float> x, std::span<std::byte> scratch);

// y[r] for the rows of blocks [first, last); bias [rows] or null; then 0 where that is negative if
// has_relu. Products are rounded and added by ascending column, then the bias: the same bits on
// every machine. NaN and Inf as in a dense product: 0 * Inf is NaN for pruned weights too.
POMONA_API void multiply_csc16(const Csc16View& matrix, const Csc16Input& input, const float* bias,
                               bool has_relu, float* y, int64_t first_block, int64_t last_block);

}  // namespace pomona
