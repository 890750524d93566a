#pragma once
// The AVX-512 and AVX2 forms of pg_kernel.h.

#include "infer/pg_kernel.h"

namespace pomona {

#if defined(__x86_64__)
// REQUIRES: as make_pg_input.
PgInput make_pg_input_avx512(const PgView& matrix, std::span<const float> x,
                             std::span<std::byte> planes);
// The sums of the 64 lanes of a group, what spilled left out. kFloat32 wants AVX-512 F, BW;
// kBFloat16 BF16 as well; kBytes VBMI and VNNI.
void multiply_group_avx512(const PgView& matrix, const PgInput& input, const PgGroup& group,
                           float* sums);
// The same for kFloat32 and kBytes, with AVX2 and FMA.
PgInput make_pg_input_avx2(const PgView& matrix, std::span<const float> x,
                           std::span<std::byte> planes);
void multiply_group_avx2(const PgView& matrix, const PgInput& input, const PgGroup& group,
                         float* sums);
// Adds the products of 16 lanes' spilled nonzeros to their sums.
void add_level_avx2(const PgSpilled& level, const float* x, float* sums);
#endif

}  // namespace pomona
