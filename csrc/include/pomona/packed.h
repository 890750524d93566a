#pragma once
// Packed layouts: a weight matrix laid out for one machine's inference kernel. Bits are stored in a
// file; they are packed here once, when a model is loaded. No torch.

#include "pomona/export.h"
#include "pomona/weight.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace pomona {

// kCsr16: compressed sparse rows with 16-bit columns and 8-bit codes (or floats when not shared):
// the portable reference. kPg32 and kPgv: permute-gather tiles, in floating and in fixed point
// (docs/kernels.md).
enum class Layout : uint8_t { kCsr16 = 1, kPg32 = 2, kPgv = 3 };
POMONA_API std::string_view layout_name(Layout layout);

// What a product is computed in. kFloat32: float32, or bfloat16 pairs where the codebook is
// bfloat16 (error at most 2^-16 of the sum of |w x|). kBFloat16: x rounded to bfloat16. kFixed16: x
// and codebook in 16 bits with one scale each, sums exact (at most 1e-4 of the largest |y|).
// kInt8: in 8 bits.
enum class Precision : uint8_t { kFloat32 = 0, kBFloat16 = 1, kFixed16 = 2, kInt8 = 3 };
POMONA_API std::string_view precision_name(Precision precision);

// `bytes` is self-describing (a header, then the arrays), position-independent, 8-byte aligned
// inside, and what PackedLinear keeps in its buffer. Not a storage format: it may change with any
// version.
struct POMONA_API Packed {
  Layout layout = Layout::kCsr16;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t nnz = 0;
  std::vector<std::byte> bytes;
};

// Packs a float32, float16 or bfloat16 matrix [rows, cols]; the layout computes in float32. Throws
// InvalidArgument, naming the weight, for another dtype or number of dimensions, and for NaN or
// Inf.
POMONA_API Packed pack(const Weight& weight, Layout layout = Layout::kCsr16);

// What a buffer says of itself, every index checked against its bounds: after this no kernel reads
// outside x or the buffer. Throws InvalidArgument for bytes that pack() did not make (another
// layout, version, cut short, indices out of range).
POMONA_API Packed check_packed(std::span<const std::byte> bytes);

// The dense matrix, float32, row-major [rows, cols]. REQUIRES: check_packed(packed) passed.
POMONA_API std::vector<float> unpack(std::span<const std::byte> packed);

// y [batch, rows] = x [batch, cols] * W^T, fp32, row-major, one thread. The bits of a sum depend on
// its row of W and of x alone, not on the batch. NaN and Inf in x reach y through stored weights
// only. REQUIRES: check_packed(packed) passed; x.size() == batch * cols, y.size() == batch * rows.
POMONA_API void multiply(std::span<const std::byte> packed, std::span<const float> x, int64_t batch,
                         std::span<float> y);

}  // namespace pomona
