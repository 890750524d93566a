#include "infer/lut_vector_kernel.h"

#if defined(__x86_64__)

#include "base/float16.h"
#include "infer/byte_input.h"
#include "infer/byte_planes.h"
#include "infer/vector_targets.h"

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <span>
#include <type_traits>

namespace pomona {
namespace {

// Calls add(bits, rows) with constants: four rows together, or one after the other.
template <class Sums, class Add>
void with_constants(int bits, const LutRows& rows, Sums& sums, const Add& add) {
  const auto with_bits = [&](auto count, const uint32_t* const* words, auto* of_rows) {
    switch (bits) {
      case 2:
        return add(std::integral_constant<int, 2>{}, count, words, of_rows);
      case 4:
        return add(std::integral_constant<int, 4>{}, count, words, of_rows);
      default:
        return add(std::integral_constant<int, 8>{}, count, words, of_rows);
    }
  };
  if (rows.count == kLutRows) {
    return with_bits(std::integral_constant<int, kLutRows>{}, rows.words, sums.data());
  }
  for (int r = 0; r < rows.count; ++r) {
    with_bits(std::integral_constant<int, 1>{}, rows.words + r, sums.data() + r);
  }
}

// The permute looks at the low four bits of a word.
template <int kBits>
POMONA_AVX512 POMONA_INLINE __m512 values_of(__m512i codes, __m512 table, const float* values) {
  if constexpr (kBits < 8) {
    static_cast<void>(values);
    return _mm512_permutexvar_ps(codes, table);
  } else {
    static_cast<void>(table);
    return _mm512_i32gather_ps(_mm512_and_si512(codes, _mm512_set1_epi32(255)), values, 4);
  }
}

template <int kBits, int kCount>
POMONA_AVX512 void add_floats_avx512(const float* values, int64_t blocks,
                                     const uint32_t* const* rows, const float* x,
                                     std::array<float, 32>* sums) {
  constexpr int kCodes = 32 / kBits;
  const __m512 table = _mm512_loadu_ps(values);
  __m512 totals[kCount][2];
  for (auto& total : totals) total[0] = total[1] = _mm512_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b, x += 16 * kCodes) {
    __m512i words[kCount];
    for (int r = 0; r < kCount; ++r) words[r] = _mm512_loadu_si512(rows[r] + b * kLutWords);
#pragma GCC unroll 16
    for (int s = 0; s < kCodes; ++s) {
      const __m512 inputs = _mm512_loadu_ps(x + s * 16);
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        const __m512i codes = _mm512_srli_epi32(words[r], static_cast<unsigned>(kBits * s));
        totals[r][s % 2] =
            _mm512_fmadd_ps(values_of<kBits>(codes, table, values), inputs, totals[r][s % 2]);
      }
    }
  }
  for (int r = 0; r < kCount; ++r) {
    _mm512_storeu_ps(sums[r].data(), totals[r][0]);
    _mm512_storeu_ps(sums[r].data() + 16, totals[r][1]);
  }
}

// The first 16 values.
POMONA_AVX2 std::array<std::byte, 64> planes_of(const float* values) {
  alignas(64) std::array<std::byte, 64> planes;
  split_planes(reinterpret_cast<const std::byte*>(values), planes.data());
  return planes;
}

// Codes of two or four bits, in two halves of a block. Looked up byte by byte in planes of the
// codebook; vpshufb first brings the bytes of four words that are codes of neighbouring columns
// together. kIsHalf: the low two bytes of all values are 0.
template <int kBits, bool kIsHalf>
POMONA_AVX2 void add_floats_avx2(const std::byte* book, int64_t blocks, const uint32_t* words,
                                 const float* x, std::array<float, 32>& sums) {
  constexpr int kFields = 8 / kBits;  // of a byte
  const __m256i by_byte = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                           0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m256i mask = _mm256_set1_epi8((1 << kBits) - 1);
  __m256 totals[2][2];
  for (auto& total : totals) total[0] = total[1] = _mm256_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b, words += kLutWords, x += 64 * kFields) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const auto* at = reinterpret_cast<const __m256i*>(words + 8 * half);
      const __m256i codes = _mm256_shuffle_epi8(_mm256_loadu_si256(at), by_byte);
#pragma GCC unroll 2
      for (int parity = 0; parity < 2; ++parity) {
        __m256 w[kFields / 2][4];
#pragma GCC unroll 2
        for (int f = 0; f < kFields / 2; ++f) {
          const __m256i index =
              _mm256_and_si256(_mm256_srli_epi16(codes, kBits * (2 * f + parity)), mask);
          __m256i planes[4];
#pragma GCC unroll 4
          for (int k = 0; k < 4; ++k) {
            planes[k] = kIsHalf && k < 2 ? _mm256_setzero_si256()
                                         : _mm256_shuffle_epi8(table_at(book + 16 * k), index);
          }
          join_planes(planes, w[f]);
        }
#pragma GCC unroll 4
        for (int byte = 0; byte < 4; ++byte) {
#pragma GCC unroll 2
          for (int f = 0; f < kFields / 2; ++f) {
            const float* inputs = x + 16 * (kFields * byte + 2 * f + parity) + 8 * half;
            auto& total = totals[parity][half];
            total = _mm256_fmadd_ps(w[f][byte], _mm256_loadu_ps(inputs), total);
          }
        }
      }
    }
  }
  for (size_t i = 0; i < 4; ++i) _mm256_storeu_ps(sums.data() + 8 * i, totals[i / 2][i % 2]);
}

// Codes of a byte.
POMONA_AVX2 void gather_floats_avx2(const float* values, int64_t blocks, const uint32_t* words,
                                    const float* x, std::array<float, 32>& sums) {
  const __m256i mask = _mm256_set1_epi32(255);
  __m256 totals[2][2];
  for (auto& total : totals) total[0] = total[1] = _mm256_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b, words += kLutWords) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const auto* at = reinterpret_cast<const __m256i*>(words + 8 * half);
      const __m256i of_block = _mm256_loadu_si256(at);
#pragma GCC unroll 4
      for (int s = 0; s < 4; ++s) {
        const __m256i codes = _mm256_and_si256(_mm256_srli_epi32(of_block, 8 * s), mask);
        const __m256 inputs = _mm256_loadu_ps(x + b * 64 + 16 * s + 8 * half);
        auto& total = totals[s % 2][half];
        total = _mm256_fmadd_ps(_mm256_i32gather_ps(values, codes, 4), inputs, total);
      }
    }
  }
  for (size_t i = 0; i < 4; ++i) _mm256_storeu_ps(sums.data() + 8 * i, totals[i / 2][i % 2]);
}

// The permute looks at the low five bits of a half-word; vdpbf16ps adds both products of a word.
template <int kBits, int kCount, bool kHasLow>
POMONA_BFLOAT16 void add_halves_avx512(const uint16_t* halves, int64_t blocks,
                                       const uint32_t* const* rows, const uint16_t* x,
                                       int64_t low_at, std::array<float, 32>* sums) {
  constexpr int kCodes = 16 / kBits;
  const __m512i table = _mm512_loadu_si512(halves);
  __m512 totals[kCount][2];
  for (auto& total : totals) total[0] = total[1] = _mm512_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b, x += 32 * kCodes) {
    __m512i words[kCount];
    for (int r = 0; r < kCount; ++r) words[r] = _mm512_loadu_si512(rows[r] + b * kLutWords);
#pragma GCC unroll 8
    for (int s = 0; s < kCodes; ++s) {
      const auto inputs = (__m512bh)_mm512_loadu_si512(x + s * 32);
      const auto rests = (__m512bh)_mm512_loadu_si512(x + (kHasLow ? low_at : 0) + s * 32);
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        const __m512i codes = _mm512_srli_epi16(words[r], static_cast<unsigned>(kBits * s));
        const auto w = (__m512bh)_mm512_permutexvar_epi16(codes, table);
        auto& total = totals[r][kHasLow ? 0 : s % 2];
        total = _mm512_dpbf16_ps(total, inputs, w);
        if constexpr (kHasLow) totals[r][1] = _mm512_dpbf16_ps(totals[r][1], rests, w);
      }
    }
  }
  for (int r = 0; r < kCount; ++r) {
    _mm512_storeu_ps(sums[r].data(), totals[r][0]);
    _mm512_storeu_ps(sums[r].data() + 16, totals[r][1]);
  }
}

// The permute of 64 bytes looks at the low six bits of a byte; 256 are two of 128, chosen by the
// eighth bit.
template <int kBits, int kCount>
POMONA_VNNI void add_bytes_avx512(const int8_t* bytes, int64_t blocks, const uint32_t* const* rows,
                                  const uint8_t* x, std::array<int32_t, 16>* sums) {
  constexpr int kCodes = 8 / kBits;
  const __m512i table = _mm512_loadu_si512(bytes), second = _mm512_loadu_si512(bytes + 64);
  const __m512i third = _mm512_loadu_si512(bytes + 128), last = _mm512_loadu_si512(bytes + 192);
  __m512i totals[kCount];
  for (auto& total : totals) total = _mm512_setzero_si512();
  for (int64_t b = 0; b < blocks; ++b, x += 64 * kCodes) {
    __m512i words[kCount];
    for (int r = 0; r < kCount; ++r) words[r] = _mm512_loadu_si512(rows[r] + b * kLutWords);
#pragma GCC unroll 4
    for (int q = 0; q < kCodes; ++q) {
      const __m512i inputs = _mm512_loadu_si512(x + q * 64);
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        const __m512i codes = _mm512_srli_epi16(words[r], static_cast<unsigned>(kBits * q));
        __m512i w;
        if constexpr (kBits < 8) {
          w = _mm512_permutexvar_epi8(codes, table);
        } else {
          w = _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes),
                                     _mm512_permutex2var_epi8(table, codes, second),
                                     _mm512_permutex2var_epi8(third, codes, last));
        }
        totals[r] = _mm512_dpbusd_epi32(totals[r], inputs, w);
      }
    }
  }
  for (int r = 0; r < kCount; ++r) _mm512_storeu_si512(sums[r].data(), totals[r]);
}

// vpshufb looks at the low four bits of a byte, and gives zero where the eighth is set. A table of
// 256 is sixteen of 16: the sum with saturation has the eighth bit unless the high four bits of the
// code are those of the table.
template <int kBits>
POMONA_AVX2 POMONA_INLINE __m256i bytes_of(__m256i codes, const int8_t* bytes) {
  if constexpr (kBits < 8) {
    return _mm256_shuffle_epi8(table_at(bytes), _mm256_and_si256(codes, _mm256_set1_epi8(15)));
  }
  __m256i result = _mm256_setzero_si256();
#pragma GCC unroll 16
  for (int t = 0; t < 16; ++t) {
    const __m256i of_table = _mm256_xor_si256(codes, _mm256_set1_epi8(static_cast<char>(16 * t)));
    const __m256i index = _mm256_adds_epu8(of_table, _mm256_set1_epi8(0x70));
    result = _mm256_or_si256(result, _mm256_shuffle_epi8(table_at(bytes + 16 * t), index));
  }
  return result;
}

// x in bytes with a sign. vpmaddubsw takes one operand without, |x| <= 128; two of its products
// with values of |w| <= 127 stay below 2^15, where it would saturate.
template <int kBits, int kCount>
POMONA_AVX2 void add_bytes_avx2(const int8_t* bytes, int64_t blocks, const uint32_t* const* rows,
                                const std::byte* x, std::array<int32_t, 16>* sums) {
  constexpr int kCodes = 8 / kBits;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i totals[kCount];
  for (auto& total : totals) total = _mm256_setzero_si256();
  for (int64_t b = 0; b < blocks; ++b, x += 64 * kCodes) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      __m256i words[kCount];
      for (int r = 0; r < kCount; ++r) {
        words[r] = _mm256_loadu_si256(
            reinterpret_cast<const __m256i*>(rows[r] + b * kLutWords + 8 * half));
      }
#pragma GCC unroll 4
      for (int q = 0; q < kCodes; ++q) {
        const __m256i inputs =
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + q * 64 + 32 * half));
        const __m256i magnitudes = _mm256_abs_epi8(inputs);
#pragma GCC unroll 4
        for (int r = 0; r < kCount; ++r) {
          const __m256i w = bytes_of<kBits>(_mm256_srli_epi16(words[r], kBits * q), bytes);
          const __m256i pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(w, inputs));
          totals[r] = _mm256_add_epi32(totals[r], _mm256_madd_epi16(pairs, ones));
        }
      }
    }
  }
  for (int r = 0; r < kCount; ++r) {
    sums[r].fill(0);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums[r].data()), totals[r]);
  }
}

// Byte l of the rows to bytes 4 l .. 4 l + 3.
POMONA_AVX2 POMONA_INLINE void interleave_4(const std::byte* const* rows, std::byte* to) {
  __m128i bytes[4];
  for (int k = 0; k < 4; ++k) {
    bytes[k] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[k]));
  }
  const __m128i low = _mm_unpacklo_epi8(bytes[0], bytes[1]);
  const __m128i high = _mm_unpackhi_epi8(bytes[0], bytes[1]);
  const __m128i low2 = _mm_unpacklo_epi8(bytes[2], bytes[3]);
  const __m128i high2 = _mm_unpackhi_epi8(bytes[2], bytes[3]);
  auto* out = reinterpret_cast<__m128i*>(to);
  _mm_storeu_si128(out, _mm_unpacklo_epi16(low, low2));
  _mm_storeu_si128(out + 1, _mm_unpackhi_epi16(low, low2));
  _mm_storeu_si128(out + 2, _mm_unpacklo_epi16(high, high2));
  _mm_storeu_si128(out + 3, _mm_unpackhi_epi16(high, high2));
}

}  // namespace

POMONA_AVX2 XRange x_range_avx2(std::span<const float> x) {
  return x_range_of(x);
}

POMONA_AVX2 void lay_lut_bytes_avx2(const LutView& matrix, std::span<const float> x,
                                    UnsignedScale units, bool is_signed, std::byte* plane) {
  const int64_t block_cols = matrix.block_cols(), padded = matrix.blocks() * block_cols;
  std::byte* in_order = plane + padded;  // the plane has room for floats
  const __m256 inverse = _mm256_set1_ps(1 / units.scale);
  const __m256i offset = _mm256_set1_epi32(units.offset + (is_signed ? 128 : 0));
  const __m256i sign = _mm256_set1_epi16(is_signed ? 0x80 : 0);
  for (size_t i = 0; i < static_cast<size_t>(padded); i += 32) {
    store_bytes(_mm256_xor_si256(halves_of_x(x, i, inverse, offset), sign),
                _mm256_xor_si256(halves_of_x(x, i + 16, inverse, offset), sign), in_order + i);
  }
  std::fill(in_order + x.size(), in_order + padded, std::byte{0});
  const int64_t codes = 8 / matrix.header.bits;
  for (int64_t first = 0; first < padded; first += block_cols) {
    for (int64_t q = 0; q < codes; ++q) {
      const std::byte* rows[4];
      for (int64_t k = 0; k < 4; ++k) rows[k] = in_order + first + 16 * (codes * k + q);
      interleave_4(rows, plane + first + 64 * q);
    }
  }
}

void add_lut_floats_avx2(const LutView& matrix, const LutRows& rows, const std::byte* x,
                         LutFloatSums& sums) {
  const auto* floats = reinterpret_cast<const float*>(x);
  const float* values = matrix.codebook->values;
  const auto book = planes_of(values);
  const bool is_half = std::ranges::all_of(std::span(values, 16), [](float value) {
    return (std::bit_cast<uint32_t>(value) & 0xffff) == 0;
  });
  with_constants(matrix.header.bits, rows, sums,
                 [&](auto bits, auto count, const uint32_t* const* words, auto* of_rows) {
                   for (int r = 0; r < count(); ++r) {
                     if constexpr (bits() == 8) {
                       gather_floats_avx2(values, matrix.blocks(), words[r], floats, of_rows[r]);
                     } else if (is_half) {
                       add_floats_avx2<bits(), true>(book.data(), matrix.blocks(), words[r], floats,
                                                     of_rows[r]);
                     } else {
                       add_floats_avx2<bits(), false>(book.data(), matrix.blocks(), words[r],
                                                      floats, of_rows[r]);
                     }
                   }
                 });
}

void add_lut_floats_avx512(const LutView& matrix, const LutRows& rows, const std::byte* x,
                           LutFloatSums& sums) {
  const auto* floats = reinterpret_cast<const float*>(x);
  with_constants(matrix.header.bits, rows, sums,
                 [&](auto bits, auto count, const uint32_t* const* words, auto* of_rows) {
                   add_floats_avx512<bits(), count()>(matrix.codebook->values, matrix.blocks(),
                                                      words, floats, of_rows);
                 });
}

void add_lut_halves_avx512(const LutView& matrix, const LutRows& rows, const std::byte* x,
                           LutFloatSums& sums) {
  const auto* halves = reinterpret_cast<const uint16_t*>(x);
  const int64_t blocks = matrix.blocks(), low_at = blocks * matrix.block_cols();
  const bool has_low = matrix.precision() == Precision::kFloat32;
  std::array<uint16_t, 32> table;
  for (size_t i = 0; i < table.size(); ++i) {
    table[i] = bfloat16_from_float(matrix.codebook->values[i]);
  }
  with_constants(matrix.header.bits, rows, sums,
                 [&](auto bits, auto count, const uint32_t* const* words, auto* of_rows) {
                   if constexpr (bits() < 8) {
                     has_low ? add_halves_avx512<bits(), count(), true>(table.data(), blocks, words,
                                                                        halves, low_at, of_rows)
                             : add_halves_avx512<bits(), count(), false>(
                                   table.data(), blocks, words, halves, low_at, of_rows);
                   }
                 });
}

void add_lut_bytes_avx2(const LutView& matrix, const LutRows& rows, const std::byte* x,
                        LutByteSums& sums) {
  with_constants(matrix.header.bits, rows, sums,
                 [&](auto bits, auto count, const uint32_t* const* words, auto* of_rows) {
                   add_bytes_avx2<bits(), count()>(matrix.codebook->bytes, matrix.blocks(), words,
                                                   x, of_rows);
                 });
}

void add_lut_bytes_avx512(const LutView& matrix, const LutRows& rows, const std::byte* x,
                          LutByteSums& sums) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(x);
  with_constants(matrix.header.bits, rows, sums,
                 [&](auto bits, auto count, const uint32_t* const* words, auto* of_rows) {
                   add_bytes_avx512<bits(), count()>(matrix.codebook->bytes, matrix.blocks(), words,
                                                     bytes, of_rows);
                 });
}

}  // namespace pomona

#endif
