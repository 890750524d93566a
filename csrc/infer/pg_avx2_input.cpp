// The AVX2 form of make_pg_input, for what multiply_group_avx2 multiplies:
//
//   kFloat32   each block of 16 words as four planes of bytes
//   kBytes     bytes with a sign, 128 less than other forms have them (the low bytes of kFixed16
//              without one); units.offset says so
//
// Blocks stand where they do for every other form.

#include "infer/byte_planes.h"

#if defined(__x86_64__)

#include "infer/pg_vector_kernel.h"

#include <algorithm>
#include <array>
#include <limits>

namespace pomona {
namespace {

// What one pass over x finds.
struct Range {
  float low = 0, high = 0;
  bool is_finite = true;
};

// Eight of x from i on, zeros after its end.
POMONA_AVX2 POMONA_INLINE __m256 load_x(std::span<const float> x, size_t i) {
  if (i + 8 <= x.size()) return _mm256_loadu_ps(x.data() + i);
  alignas(32) std::array<float, 8> rest{};
  if (i < x.size()) std::copy(x.begin() + static_cast<std::ptrdiff_t>(i), x.end(), rest.begin());
  return _mm256_loadu_ps(rest.data());
}

POMONA_AVX2 Range range_of(std::span<const float> x) {
  __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
  __m256i most = _mm256_setzero_si256();
  const __m256i absolute = _mm256_set1_epi32(0x7fffffff);
  for (size_t i = 0; i < x.size(); i += 8) {
    const __m256 values = load_x(x, i);
    low = _mm256_min_ps(low, values);
    high = _mm256_max_ps(high, values);
    most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(values), absolute));
  }
  alignas(32) std::array<float, 8> lows, highs;
  alignas(32) std::array<int32_t, 8> bits;
  _mm256_storeu_ps(lows.data(), low);
  _mm256_storeu_ps(highs.data(), high);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bits.data()), most);
  constexpr int32_t kInfinity = 0x7f800000;
  return {*std::ranges::min_element(lows), *std::ranges::max_element(highs),
          *std::ranges::max_element(bits) < kInfinity};
}

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

// 32 of x as whole numbers of its units, each in a half-word, in the order that packing them to
// bytes undoes.
struct Whole {
  __m256i first, second;
};

POMONA_AVX2 POMONA_INLINE __m256i packed_whole(std::span<const float> x, size_t i, __m256 inverse,
                                               __m256i offset) {
  const auto whole = [&](size_t at) POMONA_AVX2 {
    return _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(load_x(x, at), inverse)), offset);
  };
  return _mm256_packus_epi32(whole(i), whole(i + 8));
}

// Bytes from half-words, back in order.
POMONA_AVX2 POMONA_INLINE void store_bytes(__m256i first, __m256i second, std::byte* to) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, second), order));
}

// x past its end is its zero, which counts as any other x: no slot with a code has it.
POMONA_AVX2 void lay_bytes(std::span<const float> x, bool is_int8, UnsignedScale units,
                           int64_t blocks, std::byte* plane, int64_t bytes_of_plane) {
  const __m256 inverse = _mm256_set1_ps(1 / units.scale);
  const __m256i offset = _mm256_set1_epi32(units.offset);
  // A byte less 128 is the byte with its highest bit turned.
  const __m256i sign = _mm256_set1_epi16(0x80), low = _mm256_set1_epi16(0xff);
  for (size_t i = 0; i < static_cast<size_t>(pg_second_at(blocks)); i += 32) {
    const __m256i first = packed_whole(x, i, inverse, offset);
    const __m256i second = packed_whole(x, i + 16, inverse, offset);
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
  const Range range = range_of(x);
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
