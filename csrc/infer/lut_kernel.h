#pragma once
// The layout lut: the product. First x is laid as the form takes it, once for a call; then any
// threads multiply rows, each in the same order, so that the bits of y do not depend on the
// threads.
//
// The plain form is the reference; of kFloat32 and kBytes the others have its bits.
//
// Source: thesis §4.2; docs/kernels.md.

#include "pomona/export.h"

#include "base/isa.h"
#include "infer/csr16_kernel.h"
#include "infer/fixed_point.h"
#include "infer/lut_layout.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace pomona {

// x as a kernel takes it, zeros up to whole blocks. With B columns in a block and s, l, k as in
// lut_layout.h:
//   kFloat32   floats in their order
//   kBFloat16  vectors of 32 halves, 2 l and 2 l + 1 of vector s: columns 16 s + l and B / 2 more.
//              A second plane has what the first leaves of x, but not for Precision::kBFloat16
//   kBytes     vectors of 64 bytes, one for each code of a byte: byte 4 l + k of vector q is that
//              of column 16 (8 / bits * k + q) + l, x / scale + offset; with a sign for AVX2
struct LutInput {
  PackedForm form = PackedForm::kFloat32;  // kFloat32 as well where x is not for the matrix's own:
                                           // NaN, Inf, denormals
  const std::byte* plane = nullptr;
  UnsignedScale units{};  // of kBytes
};

// Bytes that make_lut_input writes.
POMONA_API int64_t lut_input_bytes(const LutView& matrix);

// REQUIRES: x.size() == cols; plane.size() == lut_input_bytes(), 64-byte aligned; has_isa(isa).
POMONA_API LutInput make_lut_input(const LutView& matrix, std::span<const float> x,
                                   std::span<std::byte> plane, Isa isa = Isa::kBest);

// y[r] for the rows of the range; bias [rows] or null; then 0 where that is negative if has_relu.
// kFloat32: lane l of 16 takes the columns l modulo 16, those of even s in one accumulator and of
// odd s in another, fused; both are added, then lanes l and l + 8, l + 4, l + 2, l + 1.
// kBFloat16: sums of exact products in float32, in an order of the machine's. kBytes: exact.
// REQUIRES: has_isa(isa), for which the input was made.
POMONA_API void multiply_lut(const LutView& matrix, const LutInput& input, const float* bias,
                             bool has_relu, float* y, RowRange range, Isa isa = Isa::kBest);

}  // namespace pomona
