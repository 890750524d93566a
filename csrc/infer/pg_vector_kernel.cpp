#include "infer/pg_vector_kernel.h"

#if defined(__x86_64__)

#include "infer/vector_targets.h"
#include "infer/with_flags.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <limits>
#include <type_traits>

namespace pomona {
namespace {

// How far ahead of the stream to fetch, in bytes: for cold weights.
constexpr int kPrefetch = 2048;
constexpr uint32_t kAbsolute = 0x7fffffff, kInfinity = 0x7f800000;
constexpr uint32_t kLeastUsable = 0x0d800000;  // 2^-100

POMONA_AVX512 POMONA_INLINE __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffff : (1u << count) - 1);
}

// Sixteen rows of sixteen words, `stride` bytes apart, to sixteen columns.
POMONA_AVX512 POMONA_INLINE void transpose_16(const std::byte* from, int64_t stride,
                                              std::byte* to) {
  __m512i rows[16], pairs[16];
  for (int i = 0; i < 16; ++i) rows[i] = _mm512_loadu_si512(from + i * stride);
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
  for (int i = 0; i < 4;
       ++i) {  // rows[4 q + i] has column 4 l + i of rows 4 q .. 4 q + 3 in quarter l
    pairs[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    pairs[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    pairs[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    pairs[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_si512(to + 64 * i, _mm512_shuffle_i32x4(pairs[i], pairs[i + 8], 0x88));
    _mm512_storeu_si512(to + 64 * (i + 8), _mm512_shuffle_i32x4(pairs[i], pairs[i + 8], 0xdd));
    _mm512_storeu_si512(to + 64 * (i + 4), _mm512_shuffle_i32x4(pairs[i + 4], pairs[i + 12], 0x88));
    _mm512_storeu_si512(to + 64 * (i + 12),
                        _mm512_shuffle_i32x4(pairs[i + 4], pairs[i + 12], 0xdd));
  }
}

// REQUIRES: the natural view, and zeros after it up to the second.
POMONA_AVX512 void lay_second_view(int64_t blocks, std::byte* plane) {
  std::byte* second = plane + pg_second_at(blocks);
  for (int64_t b = 0; b < blocks; b += 16) {
    transpose_16(plane + 4 * b, 4 * blocks, second + 64 * b);
  }
}

// Zeros from the end of x's elements up to the second view.
void pad_plane(int64_t blocks, int64_t used_bytes, std::byte* plane) {
  std::fill(plane + used_bytes, plane + pg_second_at(blocks), std::byte{0});
}

struct Range {
  float low = 0, high = 0;
  bool is_usable = true;
};

POMONA_AVX512 Range range_of(std::span<const float> x, bool is_bfloat16) {
  __m512 low = _mm512_setzero_ps(), high = _mm512_setzero_ps();
  __m512i most = _mm512_setzero_si512(), least = _mm512_set1_epi32(-1);
  const __m512i absolute = _mm512_set1_epi32(static_cast<int>(kAbsolute));
  const auto size = std::ssize(x);
  for (int64_t i = 0; i < size; i += 16) {
    const __m512 values = _mm512_maskz_loadu_ps(first_lanes(size - i), x.data() + i);
    const __m512i bits = _mm512_and_si512(_mm512_castps_si512(values), absolute);
    low = _mm512_min_ps(low, values);
    high = _mm512_max_ps(high, values);
    most = _mm512_max_epu32(most, bits);
    // One less, so that zero is the largest and no reason to worry.
    least = _mm512_min_epu32(least, _mm512_sub_epi32(bits, _mm512_set1_epi32(1)));
  }
  Range range{_mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high), true};
  range.is_usable = _mm512_reduce_max_epu32(most) < kInfinity &&
                    !(is_bfloat16 && _mm512_reduce_min_epu32(least) < kLeastUsable - 1);
  return range;
}

POMONA_AVX512 void lay_float(std::span<const float> x, int64_t blocks, std::byte* plane) {
  std::copy_n(reinterpret_cast<const std::byte*>(x.data()), x.size_bytes(), plane);
  pad_plane(blocks, std::ssize(x) * 4, plane);
  lay_second_view(blocks, plane);
}

POMONA_BFLOAT16 POMONA_INLINE __m512 widened(__m256i halves) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

POMONA_BFLOAT16 void lay_bfloat16(std::span<const float> x, bool has_low, int64_t blocks,
                                  std::byte* plane, int64_t bytes_of_plane) {
  const auto size = std::ssize(x);
  for (int64_t i = 0; i < size; i += 32) {
    const __m512 a = _mm512_maskz_loadu_ps(first_lanes(size - i), x.data() + i);
    const __mmask16 more = size - i > 16 ? first_lanes(size - i - 16) : __mmask16{0};
    const __m512 b =
        more != 0 ? _mm512_maskz_loadu_ps(more, x.data() + i + 16) : _mm512_setzero_ps();
    const __m512i high = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    _mm512_storeu_si512(plane + 2 * i, high);
    if (!has_low) continue;
    const __m512 rest_a = _mm512_sub_ps(a, widened(_mm512_castsi512_si256(high)));
    const __m512 rest_b = _mm512_sub_ps(b, widened(_mm512_extracti64x4_epi64(high, 1)));
    _mm512_storeu_si512(plane + bytes_of_plane + 2 * i,
                        (__m512i)_mm512_cvtne2ps_pbh(rest_b, rest_a));
  }
  for (int p = 0; p < (has_low ? 2 : 1); ++p) {
    std::byte* at = plane + p * bytes_of_plane;
    pad_plane(blocks, (size + 31) / 32 * 64, at);
    lay_second_view(blocks, at);
  }
}

POMONA_AVX512 void lay_bytes(std::span<const float> x, bool is_int8, const PgInput& input,
                             int64_t blocks, std::byte* plane, int64_t bytes_of_plane) {
  const __m512 inverse = _mm512_set1_ps(1 / input.units.scale);
  const __m512i offset = _mm512_set1_epi32(input.units.offset);
  const auto size = std::ssize(x);
  for (int64_t i = 0; i < size; i += 16) {
    const __m512 values = _mm512_maskz_loadu_ps(first_lanes(size - i), x.data() + i);
    const __m512i whole =
        _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(values, inverse)), offset);
    const __m512i high = is_int8 ? whole : _mm512_srli_epi32(whole, 8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(plane + i), _mm512_cvtepi32_epi8(high));
    if (is_int8) continue;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(plane + bytes_of_plane + i),
                     _mm512_cvtepi32_epi8(whole));
  }
  for (int p = 0; p < (is_int8 ? 1 : 2); ++p) {
    std::byte* at = plane + p * bytes_of_plane;
    pad_plane(blocks, (size + 15) / 16 * 16, at);
    lay_second_view(blocks, at);
  }
}

struct Stream {
  const std::byte* bytes;
  const PgOffsets* offsets;
  int64_t steps;
};

Stream stream_of(const PgView& matrix, const PgGroup& group) {
  const auto& schedule = matrix.schedules[group.schedule];
  return {matrix.stream + group.stream_at, matrix.steps.data() + schedule.begin, schedule.steps};
}

POMONA_AVX512 POMONA_INLINE void prefetch(const std::byte* bytes, int vectors) {
  for (int v = 0; v < vectors; ++v) {
    _mm_prefetch(reinterpret_cast<const char*>(bytes + kPrefetch + 64 * v), _MM_HINT_T0);
  }
}

// Three steps of 16 lanes from one word of each. The permutes look at the low five bits of a word,
// so shifts need no masks. A bfloat16 codebook stands in the odd halves of `halves`, whose permute
// looks at the five bits from bit 16 on: one shift then serves the index and the code.
template <int kVectors, bool kIsHalf>
POMONA_AVX512 void add_floats(const PgView& matrix, const PgInput& input, const PgGroup& group,
                              float* sums) {
  const auto& book = *matrix.codebook;
  const __m512 low_codes = _mm512_loadu_ps(book.values);
  const __m512 high_codes = _mm512_loadu_ps(book.values + 16);
  const __m512i halves = _mm512_loadu_si512(book.high);
  __m512 totals[kVectors];
  for (auto& total : totals) total = _mm512_setzero_ps();
  auto [bytes, offsets, steps] = stream_of(matrix, group);
  const auto word_of_x = [&](uint32_t at) { return input.planes + at; };
  for (int64_t s = 0; s < steps; s += 3, offsets += 3, bytes += 64 * kVectors) {
    prefetch(bytes, kVectors);
    const __m512 a0 = _mm512_loadu_ps(word_of_x(offsets[0].first));
    const __m512 b0 = _mm512_loadu_ps(word_of_x(offsets[0].second));
    const __m512 a1 = _mm512_loadu_ps(word_of_x(offsets[1].first));
    const __m512 b1 = _mm512_loadu_ps(word_of_x(offsets[1].second));
    const __m512 a2 = _mm512_loadu_ps(word_of_x(offsets[2].first));
    const __m512 b2 = _mm512_loadu_ps(word_of_x(offsets[2].second));
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      __m512i slots = _mm512_loadu_si512(bytes + 64 * v);
      POMONA_HOLD(slots);
      const __m512i slots1 = _mm512_srli_epi32(slots, 5), slots2 = _mm512_srli_epi32(slots, 10);
      __m512 w0, w1, w2;
      if constexpr (kIsHalf) {
        constexpr __mmask32 kOdd = 0xaaaaaaaa;
        w0 = _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(kOdd, slots, halves));
        w1 = _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(kOdd, slots1, halves));
        w2 = _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(kOdd, slots2, halves));
      } else {
        w0 = _mm512_permutex2var_ps(low_codes, _mm512_srli_epi32(slots, 16), high_codes);
        w1 = _mm512_permutex2var_ps(low_codes, _mm512_srli_epi32(slots, 21), high_codes);
        w2 = _mm512_permutex2var_ps(low_codes, _mm512_srli_epi32(slots, 26), high_codes);
      }
      totals[v] = _mm512_fmadd_ps(_mm512_permutex2var_ps(a0, slots, b0), w0, totals[v]);
      totals[v] = _mm512_fmadd_ps(_mm512_permutex2var_ps(a1, slots1, b1), w1, totals[v]);
      totals[v] = _mm512_fmadd_ps(_mm512_permutex2var_ps(a2, slots2, b2), w2, totals[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(sums + 16 * v, totals[v]);
}

// A step of 32 half-word slots, two of each lane; vdpbf16ps adds both products to the lane's sum.
// kLowX: x has a second plane; kLowCodes: the codebook has low parts; kWide: more than 32 codes.
template <int kVectors, bool kLowX, bool kLowCodes, bool kWide>
POMONA_BFLOAT16 void add_bfloat16(const PgView& matrix, const PgInput& input, const PgGroup& group,
                                  float* sums) {
  const auto& book = *matrix.codebook;
  const __m512i high = _mm512_loadu_si512(book.high), high2 = _mm512_loadu_si512(book.high + 32);
  const __m512i low = _mm512_loadu_si512(book.low), low2 = _mm512_loadu_si512(book.low + 32);
  __m512 totals[kVectors], rests[kVectors];
  for (int v = 0; v < kVectors; ++v) totals[v] = rests[v] = _mm512_setzero_ps();
  auto [bytes, offsets, steps] = stream_of(matrix, group);
  const std::byte* planes = input.planes;
  const int64_t rest_at = kLowX ? matrix.plane_bytes() : 0;
  for (int64_t s = 0; s < steps; ++s, ++offsets, bytes += 64 * kVectors) {
    const __m512i a = _mm512_loadu_si512(planes + offsets->first);
    const __m512i b = _mm512_loadu_si512(planes + offsets->second);
    const __m512i rest_a = _mm512_loadu_si512(planes + rest_at + offsets->first);
    const __m512i rest_b = _mm512_loadu_si512(planes + rest_at + offsets->second);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      __m512i slots = _mm512_loadu_si512(bytes + 64 * v);
      POMONA_HOLD(slots);
      const __m512i codes = _mm512_srli_epi16(slots, 6);
      const auto x = (__m512bh)_mm512_permutex2var_epi16(a, slots, b);
      const auto w = (__m512bh)(kWide ? _mm512_permutex2var_epi16(high, codes, high2)
                                      : _mm512_permutexvar_epi16(codes, high));
      totals[v] = _mm512_dpbf16_ps(totals[v], x, w);
      if constexpr (kLowX) {
        const auto rest = (__m512bh)_mm512_permutex2var_epi16(rest_a, slots, rest_b);
        rests[v] = _mm512_dpbf16_ps(rests[v], rest, w);
      }
      if constexpr (kLowCodes) {
        const auto rest = (__m512bh)(kWide ? _mm512_permutex2var_epi16(low, codes, low2)
                                           : _mm512_permutexvar_epi16(codes, low));
        rests[v] = _mm512_dpbf16_ps(rests[v], x, rest);
      }
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    _mm512_storeu_ps(sums + 16 * v, _mm512_add_ps(totals[v], rests[v]));
  }
}

// The sums of bytes of 16 lanes in units of both scales, in float32.
struct ByteSums {
  __m512i high, middle, low;  // times 65536, 256 and 1; or high alone
};

// 65536 high + 256 middle + low - offset * weights, times the scale, in double: exact up to 2^53.
POMONA_VNNI POMONA_INLINE void store_byte_sums(const ByteSums& sums, bool is_int8,
                                               const int32_t* weights, int32_t offset, double scale,
                                               float* to) {
  alignas(64) int32_t high[16], middle[16], low[16];
  _mm512_storeu_si512(high, sums.high);
  _mm512_storeu_si512(middle, sums.middle);
  _mm512_storeu_si512(low, sums.low);
  for (int l = 0; l < 16; ++l) {
    const int64_t whole =
        is_int8 ? int64_t{high[l]} : 65536 * int64_t{high[l]} + 256 * int64_t{middle[l]} + low[l];
    to[l] = static_cast<float>(static_cast<double>(whole - int64_t{offset} * weights[l]) * scale);
  }
}

// Two steps of 64 byte slots, four of each lane; vpdpbusd adds their products to the lane's sum.
// kWide: more than 16 codes, the fifth bit of which is bit 7 of the index.
template <int kVectors, bool kIsInt8, bool kWide>
POMONA_VNNI void add_bytes(const PgView& matrix, const PgInput& input, const PgGroup& group,
                           float* sums) {
  const auto& book = *matrix.codebook;
  const __m512i high_codes = _mm512_loadu_si512(book.byte_high);
  const __m512i low_codes = _mm512_loadu_si512(book.byte_low);
  const __m512i fifth = _mm512_set1_epi8(16);
  ByteSums totals[kVectors];
  for (auto& total : totals) total.high = total.middle = total.low = _mm512_setzero_si512();
  auto [bytes, offsets, steps] = stream_of(matrix, group);
  const std::byte* planes = input.planes;
  const int64_t low_at = kIsInt8 ? 0 : matrix.plane_bytes();
  for (int64_t s = 0; s < steps; s += 2, bytes += 192 * kVectors) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half, ++offsets) {
      const __m512i a = _mm512_loadu_si512(planes + offsets->first);
      const __m512i b = _mm512_loadu_si512(planes + offsets->second);
      const __m512i low_a = _mm512_loadu_si512(planes + low_at + offsets->first);
      const __m512i low_b = _mm512_loadu_si512(planes + low_at + offsets->second);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const std::byte* of_vector = bytes + 192 * v;
        __m512i index = _mm512_loadu_si512(of_vector + 64 * half);
        POMONA_HOLD(index);
        __m512i codes = _mm512_loadu_si512(of_vector + 128);
        if (half != 0) codes = _mm512_srli_epi16(codes, 4);
        // a ? b : c of the bits of `fifth`, the index's bit 7 moved to bit 4, and the nibble.
        if (kWide)
          codes = _mm512_ternarylogic_epi32(fifth, _mm512_srli_epi16(index, 3), codes, 0xca);
        const __m512i x = _mm512_permutex2var_epi8(a, index, b);
        const __m512i w = _mm512_permutexvar_epi8(codes, high_codes);
        auto& total = totals[v];
        total.high = _mm512_dpbusd_epi32(total.high, x, w);
        if constexpr (!kIsInt8) {
          const __m512i low_x = _mm512_permutex2var_epi8(low_a, index, low_b);
          const __m512i low_w = _mm512_permutexvar_epi8(codes, low_codes);
          total.middle = _mm512_dpbusd_epi32(total.middle, low_x, w);
          total.middle = _mm512_dpbusd_epi32(total.middle, x, low_w);
          total.low = _mm512_dpbusd_epi32(total.low, low_x, low_w);
        }
      }
    }
  }
  const int32_t* weights = matrix.sums.data() + (&group - matrix.groups.data()) * kPgLanes;
  const double scale = static_cast<double>(input.units.scale) * static_cast<double>(book.scale);
  for (int v = 0; v < kVectors; ++v) {
    store_byte_sums(totals[v], kIsInt8, weights + 16 * v, input.units.offset, scale, sums + 16 * v);
  }
}

// Calls add<vectors>() for a group's number of vectors.
template <class Add>
void with_vectors(uint32_t vectors, const Add& add) {
  switch (vectors) {
    case 4:
      return add(std::integral_constant<int, 4>{});
    case 3:
      return add(std::integral_constant<int, 3>{});
    case 2:
      return add(std::integral_constant<int, 2>{});
    default:
      return add(std::integral_constant<int, 1>{});
  }
}

}  // namespace

PgInput make_pg_input_avx512(const PgView& matrix, std::span<const float> x,
                             std::span<std::byte> planes) {
  const bool is_bfloat16 = matrix.form() == PackedForm::kBFloat16;
  const int64_t blocks = pg_blocks(matrix.header.cols, matrix.form());
  const Range range = range_of(x, is_bfloat16);
  PgInput input{.x = x.data(), .planes = planes.data(), .is_usable = range.is_usable};
  if (!input.is_usable) return input;
  switch (matrix.form()) {
    case PackedForm::kFloat32:
      lay_float(x, blocks, planes.data());
      break;
    case PackedForm::kBFloat16:
      lay_bfloat16(x, matrix.precision() == Precision::kFloat32, blocks, planes.data(),
                   matrix.plane_bytes());
      break;
    case PackedForm::kBytes:
      input.units = unsigned_scale(matrix.precision(), range.low, range.high);
      lay_bytes(x, matrix.precision() == Precision::kInt8, input, blocks, planes.data(),
                matrix.plane_bytes());
      break;
  }
  return input;
}

void multiply_group_avx512(const PgView& matrix, const PgInput& input, const PgGroup& group,
                           float* sums) {
  const auto& book = *matrix.codebook;
  const auto precision = matrix.precision();
  with_vectors(group.vectors, [&](auto vectors) {
    switch (matrix.form()) {
      case PackedForm::kFloat32:
        return with_flags(
            [&](auto is_half) { add_floats<vectors(), is_half()>(matrix, input, group, sums); },
            book.has_low == 0);
      case PackedForm::kBFloat16:
        return with_flags(
            [&](auto has_low_x, auto has_low_codes, auto is_wide) {
              add_bfloat16<vectors(), has_low_x(), has_low_codes(), is_wide()>(matrix, input, group,
                                                                               sums);
            },
            precision == Precision::kFloat32, book.has_low != 0, book.codes > 32);
      case PackedForm::kBytes:
        return with_flags(
            [&](auto is_int8, auto is_wide) {
              add_bytes<vectors(), is_int8(), is_wide()>(matrix, input, group, sums);
            },
            precision == Precision::kInt8, book.codes > 16);
    }
  });
}

}  // namespace pomona

#endif
