#pragma once
// Permute-gather tiles: the product. First the views of x are made, once for a call; then any
// threads multiply blocks of 512 rows, each in the same order, so that the bits of y do not depend
// on the threads.
//
// The plain form is the reference; of kFloat32 and kBytes the others have its bits.
//
// Source: thesis §4.8; the arithmetic of each form is drawn in docs/kernels.md.

#include "pomona/export.h"

#include "base/isa.h"
#include "infer/fixed_point.h"
#include "infer/pg_layout.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace pomona {

// x as a kernel takes it: planes of 32-bit words, each the natural view and then the second.
//   kFloat32   one plane: x.   kBFloat16   x in bfloat16, and what that leaves (not for kBFloat16)
//   kBytes     the high and the low bytes of x / scale + offset, or one plane of bytes for kInt8
// With AVX2 their blocks look otherwise: pg_avx2_input.cpp.
struct PgInput {
  const float* x = nullptr;  // what spilled is multiplied with
  const std::byte* planes = nullptr;
  UnsignedScale units{};  // of kBytes
  // Whether every x is finite and none so small that the arithmetic would lose it. If not, the
  // planes are not made: multiply_pg_slowly() takes x itself.
  bool is_usable = true;
};

// Bytes of the planes for one x.
POMONA_API int64_t pg_input_bytes(const PgView& matrix);

// REQUIRES: x.size() == cols; planes.size() == pg_input_bytes(), 64-byte aligned; has_pg_isa(isa).
POMONA_API PgInput make_pg_input(const PgView& matrix, std::span<const float> x,
                                 std::span<std::byte> planes, Isa isa = Isa::kBest);

// y[r] = bias[r] + sum of weight * x, for the rows of blocks [first, last) (512 each); then 0 where
// that is negative if `has_relu`. bias [rows] or null. REQUIRES: input.is_usable and made for isa.
POMONA_API void multiply_pg(const PgView& matrix, const PgInput& input, const float* bias,
                            bool has_relu, float* y, int64_t first_block, int64_t last_block,
                            Isa isa = Isa::kBest);

// The same from x itself, in float32 and with NaN and Inf as a dense product has them: 0 * Inf is
// NaN for pruned weights too. All rows.
POMONA_API void multiply_pg_slowly(const PgView& matrix, std::span<const float> x,
                                   const float* bias, bool has_relu, float* y);

// Writes the stored weights into a row-major matrix [rows, cols]. REQUIRES: dense holds zeros.
POMONA_API void unpack_pg(const PgView& matrix, float* dense);

// Whether this machine has the instructions that a matrix's form wants from `isa`; the plain form
// always runs.
POMONA_API bool has_pg_isa(const PgView& matrix, Isa isa);

}  // namespace pomona
