#include "stream_sgemv.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Tests compile this file with literal stand-ins for the instructions (tests/isa_emulator).
#if defined(POMONA_EMULATED_ISA)
#define RIVALS_TARGET(...)
#else
#define RIVALS_TARGET(...) __attribute__((target(__VA_ARGS__)))
#endif

namespace pomona::rivals {
namespace {

constexpr int64_t kAhead = 512;  // elements from here to what is fetched

#if defined(__x86_64__)

// kRows rows at a time: a core keeps several streams in flight, and x is loaded once for all.
template <int kRows>
RIVALS_TARGET("avx512f")
void rows_avx512(const float* w, const float* x, int64_t cols, float* y) {
  __m512 even[kRows], odd[kRows];
  for (int r = 0; r < kRows; ++r) even[r] = odd[r] = _mm512_setzero_ps();
  int64_t j = 0;
  for (; j + 32 <= cols; j += 32) {
    const __m512 x0 = _mm512_loadu_ps(x + j), x1 = _mm512_loadu_ps(x + j + 16);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const float* from = w + r * cols + j;
      _mm_prefetch(reinterpret_cast<const char*>(from + kAhead), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(from + kAhead + 16), _MM_HINT_T0);
      even[r] = _mm512_fmadd_ps(_mm512_loadu_ps(from), x0, even[r]);
      odd[r] = _mm512_fmadd_ps(_mm512_loadu_ps(from + 16), x1, odd[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float lanes[16], sum = 0;
    _mm512_storeu_ps(lanes, _mm512_add_ps(even[r], odd[r]));
    for (const float lane : lanes) sum += lane;
    for (int64_t k = j; k < cols; ++k) sum += w[r * cols + k] * x[k];
    y[r] = sum;
  }
}

template <int kRows>
RIVALS_TARGET("avx2,fma")
void rows_avx2(const float* w, const float* x, int64_t cols, float* y) {
  __m256 even[kRows], odd[kRows];
  for (int r = 0; r < kRows; ++r) even[r] = odd[r] = _mm256_setzero_ps();
  int64_t j = 0;
  for (; j + 16 <= cols; j += 16) {
    const __m256 x0 = _mm256_loadu_ps(x + j), x1 = _mm256_loadu_ps(x + j + 8);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const float* from = w + r * cols + j;
      _mm_prefetch(reinterpret_cast<const char*>(from + kAhead), _MM_HINT_T0);
      even[r] = _mm256_fmadd_ps(_mm256_loadu_ps(from), x0, even[r]);
      odd[r] = _mm256_fmadd_ps(_mm256_loadu_ps(from + 8), x1, odd[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float sum = 0;
    const __m256 parts[] = {even[r], odd[r]};
    for (const __m256& part : parts) {
      float lanes[8];
      _mm256_storeu_ps(lanes, part);
      for (const float lane : lanes) sum += lane;
    }
    for (int64_t k = j; k < cols; ++k) sum += w[r * cols + k] * x[k];
    y[r] = sum;
  }
}

#endif

}  // namespace

StreamIsa stream_isa() {
#if defined(__x86_64__) && !defined(POMONA_EMULATED_ISA)
  if (__builtin_cpu_supports("avx512f") != 0) return StreamIsa::kAvx512;
  if (__builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0) {
    return StreamIsa::kAvx2;
  }
#endif
  return StreamIsa::kNone;
}

void stream_sgemv([[maybe_unused]] const float* weight, [[maybe_unused]] const float* x,
                  [[maybe_unused]] float* y, [[maybe_unused]] int64_t cols,
                  [[maybe_unused]] int64_t first, [[maybe_unused]] int64_t last,
                  [[maybe_unused]] StreamIsa isa) {
#if defined(__x86_64__)
  const bool is_wide = isa == StreamIsa::kAvx512;
  if (isa == StreamIsa::kNone) return;
  int64_t r = first;
  for (; r + 4 <= last; r += 4) {
    (is_wide ? rows_avx512<4> : rows_avx2<4>)(weight + r * cols, x, cols, y + r);
  }
  for (; r < last; ++r)
    (is_wide ? rows_avx512<1> : rows_avx2<1>)(weight + r * cols, x, cols, y + r);
#endif
}

}  // namespace pomona::rivals
