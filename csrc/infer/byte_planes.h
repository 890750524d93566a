#pragma once
// Words as planes of bytes: what AVX2 kernels look up with vpshufb, 16 words as four planes of 16
// bytes, the lowest first.

#if defined(__x86_64__)

#include "infer/vector_targets.h"

#include <immintrin.h>

#include <cstddef>

namespace pomona {

// Four rows of four words to four columns.
POMONA_AVX2 POMONA_INLINE void transpose_4(__m128i* rows) {
  const __m128i low = _mm_unpacklo_epi32(rows[0], rows[1]);
  const __m128i high = _mm_unpackhi_epi32(rows[0], rows[1]);
  const __m128i low2 = _mm_unpacklo_epi32(rows[2], rows[3]);
  const __m128i high2 = _mm_unpackhi_epi32(rows[2], rows[3]);
  rows[0] = _mm_unpacklo_epi64(low, low2);
  rows[1] = _mm_unpackhi_epi64(low, low2);
  rows[2] = _mm_unpacklo_epi64(high, high2);
  rows[3] = _mm_unpackhi_epi64(high, high2);
}

// 16 words to four planes; in place is allowed.
POMONA_AVX2 POMONA_INLINE void split_planes(const std::byte* words, std::byte* planes) {
  const __m128i by_byte = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m128i quarters[4];
  for (int q = 0; q < 4; ++q) {
    const auto* quarter = reinterpret_cast<const __m128i*>(words + 16 * q);
    quarters[q] = _mm_shuffle_epi8(_mm_loadu_si128(quarter), by_byte);
  }
  transpose_4(quarters);
  for (int q = 0; q < 4; ++q) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(planes + 16 * q), quarters[q]);
  }
}

// A table of 16 bytes, for both halves of a register.
POMONA_AVX2 POMONA_INLINE __m256i table_at(const void* bytes) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(bytes)));
}

// Four planes of 32 bytes to 32 words.
POMONA_AVX2 POMONA_INLINE void join_planes(const __m256i* planes, __m256* words) {
  const __m256i low = _mm256_unpacklo_epi8(planes[0], planes[1]);
  const __m256i low2 = _mm256_unpackhi_epi8(planes[0], planes[1]);
  const __m256i high = _mm256_unpacklo_epi8(planes[2], planes[3]);
  const __m256i high2 = _mm256_unpackhi_epi8(planes[2], planes[3]);
  words[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low, high));
  words[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low, high));
  words[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low2, high2));
  words[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low2, high2));
}

}  // namespace pomona

#endif
