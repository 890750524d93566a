// The AVX2 form of make_pg_input, for what multiply_group_avx2 multiplies:
//
//   kFloat32   each block of 16 words as four planes of bytes
//   kBytes     bytes with a sign, 128 less than other forms have them (the low bytes of kFixed16
//              without one); units.offset says so
//
// Blocks stand where they do for every other form.

#include "infer/byte_input.h"
#include "infer/byte_planes.h"

#if defined(__x86_64__)

#include "infer/pg_vector_kernel.h"

#include <algorithm>

namespace pomona {
namespace {

// Block j of the second view holds the words j, B + j, 2 B + j, ... of the first. Four blocks at a
// time; past the last the view has room for what is no column.
// REQUIRES: the natural view, and anything after it up to the second.
POMONA_AVX2 void lay_second_view(int64_t blocks, std::byte* plane) {
  std::byte* second = plane + pg_second_at(blocks);
  for (int64_t b = 0; b < blocks; b += 4) {
    for (int64_t q = 0; q < 4; ++q) {
      __m128i words[4];
      for (int64_t r = 0; r < 4; ++r) {
        const std::byte* row = plane + 4 * ((4 * q + r) * blocks + b);
        words[r] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row));
      }
      transpose_4(words);
      for (int64_t r = 0; r < 4; ++r) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(second + 64 * (b + r) + 16 * q), words[r]);
      }
    }
  }
}

POMONA_AVX2 void lay_floats(std::span<const float> x, int64_t blocks, std::byte* plane) {
  std::copy_n(reinterpret_cast<const std::byte*>(x.data()), x.size_bytes(), plane);
  std::fill(plane + x.size_bytes(), plane + pg_second_at(blocks), std::byte{0});
  lay_second_view(blocks, plane);
  const int64_t end = pg_second_at(blocks) + (blocks + 3) / 4 * 4 * 64;
  for (int64_t at = 0; at < end; at += 64) split_planes(plane + at, plane + at);
}

// x past its end is its zero, which counts as any other x: no slot with a code has it.
POMONA_AVX2 void lay_bytes(std::span<const float> x, bool is_int8, UnsignedScale units,
                           int64_t blocks, std::byte* plane, int64_t bytes_of_plane) {
  const __m256 inverse = _mm256_set1_ps(1 / units.scale);
  const __m256i offset = _mm256_set1_epi32(units.offset);
  // A byte less 128 is the byte with its highest bit turned.
  const __m256i sign = _mm256_set1_epi16(0x80), low = _mm256_set1_epi16(0xff);
  for (size_t i = 0; i < static_cast<size_t>(pg_second_at(blocks)); i += 32) {
    const __m256i first = halves_of_x(x, i, inverse, offset);
    const __m256i second = halves_of_x(x, i + 16, inverse, offset);
    const auto signed_byte = [&](__m256i whole) POMONA_AVX2 {
      return _mm256_xor_si256(is_int8 ? whole : _mm256_srli_epi16(whole, 8), sign);
    };
    store_bytes(signed_byte(first), signed_byte(second), plane + i);
    if (is_int8) continue;
    store_bytes(_mm256_and_si256(first, low), _mm256_and_si256(second, low),
                plane + bytes_of_plane + i);
  }
  lay_second_view(blocks, plane);
  if (!is_int8) lay_second_view(blocks, plane + bytes_of_plane);
}

}  // namespace

PgInput make_pg_input_avx2(const PgView& matrix, std::span<const float> x,
                           std::span<std::byte> planes) {
  const int64_t blocks = pg_blocks(matrix.header.cols, matrix.form());
  const auto range = x_range_of(x);
  PgInput input{.x = x.data(), .planes = planes.data(), .is_usable = range.is_finite};
  if (!input.is_usable) return input;
  if (matrix.form() == PackedForm::kFloat32) {
    lay_floats(x, blocks, planes.data());
  } else {
    input.units = unsigned_scale(matrix.precision(), range.low, range.high);
    const bool is_int8 = matrix.precision() == Precision::kInt8;
    lay_bytes(x, is_int8, input.units, blocks, planes.data(), matrix.plane_bytes());
    input.units.offset -= is_int8 ? 128 : 128 * 256;
  }
  return input;
}

}  // namespace pomona

#endif
