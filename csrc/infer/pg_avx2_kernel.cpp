// The AVX2 form of kFloat32: a table of 16 floats is two registers, so a window takes four permutes
// and three blends.

#include "infer/pg_vector_kernel.h"

#if defined(__x86_64__)

#include "infer/vector_targets.h"

#include <immintrin.h>

namespace pomona {
namespace {

// Entries of a table of 16 floats; the permutes look at the low three bits of an index, the blend
// at the sign bit of `fourth`.
POMONA_AVX2 POMONA_INLINE __m256 entries_of_16(const float* table, __m256i index, __m256 fourth) {
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index),
                          _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), index), fourth);
}

// Of two such tables, by the low five bits of an index.
POMONA_AVX2 POMONA_INLINE __m256 entries_of_32(const float* low, const float* high, __m256i index) {
  const __m256 fourth = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
  const __m256 fifth = _mm256_castsi256_ps(_mm256_slli_epi32(index, 27));
  return _mm256_blendv_ps(entries_of_16(low, index, fourth), entries_of_16(high, index, fourth),
                          fifth);
}

template <bool kIsWide>
POMONA_AVX2 void add_floats(const PgView& matrix, const PgInput& input, const PgGroup& group,
                            float* sums) {
  const auto& schedule = matrix.schedules[group.schedule];
  const PgOffsets* offsets = matrix.steps.data() + schedule.begin;
  const std::byte* bytes = matrix.stream + group.stream_at;
  const float* codes = matrix.codebook->values;
  const int halves = 2 * static_cast<int>(group.vectors);
  __m256 totals[8];
  for (auto& total : totals) total = _mm256_setzero_ps();
  for (uint32_t s = 0; s < schedule.steps; s += 3, bytes += 32 * halves) {
#pragma GCC unroll 3
    for (int within = 0; within < 3; ++within, ++offsets) {
      const auto* first = reinterpret_cast<const float*>(input.planes + offsets->first);
      const auto* second = reinterpret_cast<const float*>(input.planes + offsets->second);
      for (int h = 0; h < halves; ++h) {
        const __m256i slots = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + 32 * h));
        const __m256 x = entries_of_32(first, second, _mm256_srli_epi32(slots, 5 * within));
        const __m256i code = _mm256_srli_epi32(slots, 16 + 5 * within);
        const __m256 fourth = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));
        const __m256 w =
            kIsWide ? entries_of_32(codes, codes + 16, code) : entries_of_16(codes, code, fourth);
        totals[h] = _mm256_fmadd_ps(x, w, totals[h]);
      }
    }
  }
  for (int h = 0; h < halves; ++h) _mm256_storeu_ps(sums + 8 * h, totals[h]);
}

}  // namespace

void multiply_group_avx2(const PgView& matrix, const PgInput& input, const PgGroup& group,
                         float* sums) {
  if (matrix.codebook->codes > 16) {
    add_floats<true>(matrix, input, group, sums);
  } else {
    add_floats<false>(matrix, input, group, sums);
  }
}

}  // namespace pomona

#endif
