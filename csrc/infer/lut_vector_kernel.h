#pragma once
// The AVX-512 and AVX2 forms of lut_kernel.h: up to four rows, which share the loads of x.

#include "infer/lut_kernel.h"

#include <array>
#include <cstdint>

namespace pomona {

inline constexpr int kLutRows = 4;

// What a row adds up to. Floats: 16 lanes of each of two accumulators. Bytes: 16 lanes (8 with
// AVX2), then zeros.
using LutFloatSums = std::array<std::array<float, 32>, kLutRows>;
using LutByteSums = std::array<std::array<int32_t, 16>, kLutRows>;

// The words of up to four rows.
struct LutRows {
  const uint32_t* words[kLutRows];
  int count;
};

#if defined(__x86_64__)
XRange x_range_avx2(std::span<const float> x);
// x as kBytes of LutInput; units.offset as it says.
void lay_lut_bytes_avx2(const LutView& matrix, std::span<const float> x, UnsignedScale units,
                        bool is_signed, std::byte* plane);
void add_lut_floats_avx2(const LutView& matrix, const LutRows& rows, const std::byte* x,
                         LutFloatSums& sums);
void add_lut_floats_avx512(const LutView& matrix, const LutRows& rows, const std::byte* x,
                           LutFloatSums& sums);
// REQUIRES: codes of 2 or 4 bits.
void add_lut_halves_avx512(const LutView& matrix, const LutRows& rows, const std::byte* x,
                           LutFloatSums& sums);
void add_lut_bytes_avx2(const LutView& matrix, const LutRows& rows, const std::byte* x,
                        LutByteSums& sums);
void add_lut_bytes_avx512(const LutView& matrix, const LutRows& rows, const std::byte* x,
                          LutByteSums& sums);
#endif

}  // namespace pomona
