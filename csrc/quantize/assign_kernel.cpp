// A value is compared with floats: with the largest float that is not above a boundary. Of at most
// 255 of them, padded with infinity, one search over 16 pivots gives the upper half of a code and
// one over the 15 floats below that pivot the lower half.

#include "quantize/assign_kernel.h"

#include "base/float16.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pomona {
namespace {

constexpr size_t kCodes = 256;
using Thresholds = std::array<float, kCodes>;

// v > boundary in real numbers is v > the largest float <= boundary.
float round_down(double boundary) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  if (boundary >= double{std::numeric_limits<float>::max()}) {
    return boundary == std::numeric_limits<double>::infinity() ? kInfinity
                                                               : std::numeric_limits<float>::max();
  }
  if (boundary < -double{std::numeric_limits<float>::max()}) return -kInfinity;
  const auto rounded = static_cast<float>(boundary);
  return double{rounded} <= boundary ? rounded : std::nextafter(rounded, -kInfinity);
}

Thresholds thresholds_of(std::span<const double> boundaries) {
  Thresholds thresholds;
  thresholds.fill(std::numeric_limits<float>::infinity());
  std::transform(boundaries.begin(), boundaries.end(), thresholds.begin(), round_down);
  return thresholds;
}

uint8_t code_of(float value, const Thresholds& thresholds) {
  size_t code = 0;
  for (size_t step = kCodes / 2; step > 0; step /= 2) {
    if (thresholds[code + step - 1] < value) code += step;
  }
  return static_cast<uint8_t>(code);
}

void assign_portable(std::span<const float> values, const Thresholds& thresholds,
                     std::span<uint8_t> codes, size_t begin = 0) {
  for (size_t i = begin; i < values.size(); ++i) codes[i] = code_of(values[i], thresholds);
}

#if defined(__x86_64__)
#define POMONA_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

POMONA_AVX512 void assign_avx512(std::span<const float> values, const Thresholds& thresholds,
                                 size_t used, std::span<uint8_t> codes) {
  alignas(64) std::array<float, 16> pivots;
  for (size_t i = 0; i < 16; ++i) pivots[i] = thresholds[i * 16 + 15];
  const __m512 upper = _mm512_load_ps(pivots.data()), lower = _mm512_loadu_ps(thresholds.data());
  const bool is_short = used < 16;  // the upper half is 0, and all floats are in one register
  size_t i = 0;
  for (; i + 16 <= values.size(); i += 16) {
    const __m512 value = _mm512_loadu_ps(values.data() + i);
    __m512i code = _mm512_setzero_si512();
    if (!is_short) {
      for (int step = 8; step > 0; step /= 2) {
        const __m512i probe = _mm512_add_epi32(code, _mm512_set1_epi32(step - 1));
        const __mmask16 above =
            _mm512_cmp_ps_mask(_mm512_permutexvar_ps(probe, upper), value, _CMP_LT_OQ);
        code = _mm512_mask_add_epi32(code, above, code, _mm512_set1_epi32(step));
      }
      code = _mm512_slli_epi32(code, 4);
      for (int step = 8; step > 0; step /= 2) {
        const __m512i probe = _mm512_add_epi32(code, _mm512_set1_epi32(step - 1));
        const __mmask16 above = _mm512_cmp_ps_mask(
            _mm512_i32gather_ps(probe, thresholds.data(), sizeof(float)), value, _CMP_LT_OQ);
        code = _mm512_mask_add_epi32(code, above, code, _mm512_set1_epi32(step));
      }
    } else {
      for (int step = 8; step > 0; step /= 2) {
        const __m512i probe = _mm512_add_epi32(code, _mm512_set1_epi32(step - 1));
        const __mmask16 above =
            _mm512_cmp_ps_mask(_mm512_permutexvar_ps(probe, lower), value, _CMP_LT_OQ);
        code = _mm512_mask_add_epi32(code, above, code, _mm512_set1_epi32(step));
      }
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes.data() + i), _mm512_cvtepi32_epi8(code));
  }
  assign_portable(values, thresholds, codes, i);
}
#undef POMONA_AVX512
#endif

void assign_floats(std::span<const float> values, const Thresholds& thresholds, size_t used,
                   std::span<uint8_t> codes, Isa isa) {
#if defined(__x86_64__)
  if (resolve_isa(isa) >= Isa::kAvx512) return assign_avx512(values, thresholds, used, codes);
#endif
  (void)used, (void)isa;
  assign_portable(values, thresholds, codes);
}

// Of 16 bits there are 65,536 values: more than those are looked up.
void assign_halves(std::span<const uint16_t> values, float (*widen)(uint16_t),
                   const Thresholds& thresholds, std::span<uint8_t> codes) {
  constexpr size_t kPatterns = size_t{1} << 16;
  if (values.size() < kPatterns) {
    for (size_t i = 0; i < values.size(); ++i) codes[i] = code_of(widen(values[i]), thresholds);
    return;
  }
  std::vector<uint8_t> table(kPatterns);
  for (size_t bits = 0; bits < kPatterns; ++bits) {
    table[bits] = code_of(widen(static_cast<uint16_t>(bits)), thresholds);
  }
  for (size_t i = 0; i < values.size(); ++i) codes[i] = table[values[i]];
}

}  // namespace

void assign_codes(const Values& values, std::span<const double> boundaries,
                  std::span<uint8_t> codes, Isa isa) {
  const Thresholds thresholds = thresholds_of(boundaries);
  if (values.dtype == DType::kFloat32) {
    const std::span floats(static_cast<const float*>(values.data), codes.size());
    return assign_floats(floats, thresholds, boundaries.size(), codes, isa);
  }
  const std::span halves(static_cast<const uint16_t*>(values.data), codes.size());
  const bool is_bfloat16 = values.dtype == DType::kBFloat16;
  assign_halves(halves, is_bfloat16 ? float_from_bfloat16 : float_from_float16, thresholds, codes);
}

}  // namespace pomona
