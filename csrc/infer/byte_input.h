#pragma once
// x as whole numbers of one unit, with AVX2: what the tiles and the look-up tables share that
// compute in bytes.

#if defined(__x86_64__)

#include "infer/fixed_point.h"
#include "infer/vector_targets.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace pomona {

// Eight of x from i on, zeros after its end.
POMONA_AVX2 POMONA_INLINE __m256 load_x(std::span<const float> x, size_t i) {
  if (i + 8 <= x.size()) return _mm256_loadu_ps(x.data() + i);
  alignas(32) std::array<float, 8> rest{};
  if (i < x.size()) std::copy(x.begin() + static_cast<std::ptrdiff_t>(i), x.end(), rest.begin());
  return _mm256_loadu_ps(rest.data());
}

POMONA_AVX2 inline XRange x_range_of(std::span<const float> x) {
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

// Sixteen of x from i on as half-words, x / unit + offset in the order that store_bytes() undoes.
POMONA_AVX2 POMONA_INLINE __m256i halves_of_x(std::span<const float> x, size_t i, __m256 inverse,
                                              __m256i offset) {
  const auto whole = [&](size_t at) POMONA_AVX2 {
    return _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(load_x(x, at), inverse)), offset);
  };
  return _mm256_packus_epi32(whole(i), whole(i + 8));
}

// 32 half-words of 0..255 as bytes, back in order.
POMONA_AVX2 POMONA_INLINE void store_bytes(__m256i first, __m256i second, std::byte* to) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, second), order));
}

}  // namespace pomona

#endif
