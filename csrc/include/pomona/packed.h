#pragma once
// Packed layouts: a weight matrix laid out for one machine's inference kernel. Bits are stored in a
// file; they are packed here once, when a model is loaded. No torch.

#include "pomona/export.h"
#include "pomona/parallel.h"
#include "pomona/weight.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pomona {

// kCsr16: compressed sparse rows with 16-bit columns and 8-bit codes (or floats when not shared):
// the portable reference. kPg32 and kPgv: permute-gather tiles, in floating and in fixed point.
// kLut: codes of all weights in 2, 4 or 8 bits, for matrices that are hardly pruned. kCsc16:
// compressed sparse columns, which skips the zeros of x (docs/kernels.md).
enum class Layout : uint8_t { kCsr16 = 1, kPg32 = 2, kPgv = 3, kLut = 4, kCsc16 = 5 };
POMONA_API std::string_view layout_name(Layout layout);
// The inverse. Throws InvalidArgument for another word.
POMONA_API Layout layout_of(std::string_view name);

// What a product is computed in. kFloat32: float32, or bfloat16 pairs where the codebook is
// bfloat16 (error at most 2^-16 of the sum of |w x|). kBFloat16: x rounded to bfloat16. kFixed16: x
// and codebook in 16 bits with one scale each, sums exact (at most 1e-4 of the largest |y|).
// kInt8: in 8 bits.
enum class Precision : uint8_t { kFloat32 = 0, kBFloat16 = 1, kFixed16 = 2, kInt8 = 3 };
POMONA_API std::string_view precision_name(Precision precision);
// The inverse. Throws InvalidArgument for another word.
POMONA_API Precision precision_of(std::string_view name);

// Those that this processor has instructions for; the others are computed by plain loops.
POMONA_API std::vector<Precision> fast_precisions();

// `bytes` is self-describing (a header, then the arrays), position-independent, 8-byte aligned
// inside, and what PackedLinear keeps in its buffer. Not a storage format: it may change with any
// version.
struct POMONA_API Packed {
  Layout layout = Layout::kCsr16;
  Precision precision = Precision::kFloat32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t nnz = 0;
  std::vector<std::byte> bytes;
};

struct PackOptions {
  Layout layout = Layout::kCsr16;
  Precision precision = Precision::kFloat32;
  // Pack in a fraction of the time, somewhat less densely.
  bool is_quick = false;
};

// Packs a float32, float16 or bfloat16 matrix [rows, cols]. csr16 and csc16 (a shared weight of up
// to 128 values) compute in float32 only; pg32 in float32 and bfloat16; pgv in fixed16 and int8;
// lut in all but fixed16. pg32 and pgv take a shared weight whose codebook fits their slots (31
// values and the zero; pg32 63 in bfloat16 pairs), a few rare values beside; lut one of up to 256
// values, zero among them (bfloat16: 16). Throws InvalidArgument, naming the weight, for another
// dtype or number of dimensions, for NaN or Inf, and for a layout that cannot hold it.
// pg32 and pgv are packed on the threads of `parallel_for`, to the same bytes on any.
POMONA_API Packed pack(const Weight& weight, const PackOptions& options = {},
                       const ParallelFor& parallel_for = {});
// Why a layout cannot hold a weight that pack() can take as csr16; empty when it can.
POMONA_API std::string why_not_packed(const Weight& weight, const PackOptions& options);
// The layouts that can hold it in this precision, the one that is likely fastest on this machine
// first. At least csr16 for float32; may be none for the others.
POMONA_API std::vector<PackOptions> layouts_for(const Weight& weight,
                                                Precision precision = Precision::kFloat32);

// Packs a table whose rows are looked up (an embedding): csr16 or lut, whichever is smaller.
// Weights and errors as pack().
POMONA_API Packed pack_rows(const Weight& weight);

// What a buffer says of itself, every index checked against its bounds: after this no kernel reads
// outside x or the buffer. Throws InvalidArgument for bytes that pack() did not make (another
// layout, version, cut short, indices out of range).
POMONA_API Packed check_packed(std::span<const std::byte> bytes);

// The dense matrix, float32, row-major [rows, cols]. REQUIRES: check_packed(packed) passed.
POMONA_API std::vector<float> unpack(std::span<const std::byte> packed);

struct MultiplyOptions {
  const float* bias = nullptr;  // [rows], or null
  bool has_relu = false;        // negative sums become 0
  ParallelFor parallel_for{};   // empty: on this thread
  int64_t threads = 1;          // that parallel_for has
};

// y [batch, rows] = x [batch, cols] * W^T + bias, row-major; sums in float32, or as the precision
// says. NaN and Inf in x reach y as in a dense product: 0 * Inf is NaN, for a pruned weight too.
// The bits of a row of y depend on its row of x, on W, and on whether the batch has fewer than
// three rows; not on the threads. REQUIRES: check_packed(packed) passed; x.size() == batch * cols,
// y.size() == batch * rows.
POMONA_API void multiply(std::span<const std::byte> packed, std::span<const float> x, int64_t batch,
                         std::span<float> y, const MultiplyOptions& options = {});

}  // namespace pomona
