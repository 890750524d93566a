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

RIVALS_TARGET("avx512f") float row_avx512(const float* w, const float* x, int64_t cols) {
  __m512 a = _mm512_setzero_ps(), b = a, c = a, d = a;
  int64_t j = 0;
  for (; j + 64 <= cols; j += 64) {
    for (int64_t line = 0; line < 64; line += 16) {
      _mm_prefetch(reinterpret_cast<const char*>(w + j + kAhead + line), _MM_HINT_T0);
    }
    a = _mm512_fmadd_ps(_mm512_loadu_ps(w + j), _mm512_loadu_ps(x + j), a);
    b = _mm512_fmadd_ps(_mm512_loadu_ps(w + j + 16), _mm512_loadu_ps(x + j + 16), b);
    c = _mm512_fmadd_ps(_mm512_loadu_ps(w + j + 32), _mm512_loadu_ps(x + j + 32), c);
    d = _mm512_fmadd_ps(_mm512_loadu_ps(w + j + 48), _mm512_loadu_ps(x + j + 48), d);
  }
  alignas(64) float sums[16];
  _mm512_store_ps(sums, _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
  float sum = 0;
  for (const float each : sums) sum += each;
  for (; j < cols; ++j) sum += w[j] * x[j];
  return sum;
}

RIVALS_TARGET("avx2,fma") float row_avx2(const float* w, const float* x, int64_t cols) {
  __m256 s[8];
  for (auto& each : s) each = _mm256_setzero_ps();
  int64_t j = 0;
  for (; j + 64 <= cols; j += 64) {
    for (int64_t line = 0; line < 64; line += 16) {
      _mm_prefetch(reinterpret_cast<const char*>(w + j + kAhead + line), _MM_HINT_T0);
    }
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      s[k] = _mm256_fmadd_ps(_mm256_loadu_ps(w + j + 8 * k), _mm256_loadu_ps(x + j + 8 * k), s[k]);
    }
  }
  float sum = 0;
  for (const auto& each : s) {
    float lanes[8];
    _mm256_storeu_ps(lanes, each);
    for (const float lane : lanes) sum += lane;
  }
  for (; j < cols; ++j) sum += w[j] * x[j];
  return sum;
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
  if (isa == StreamIsa::kAvx512) {
    for (int64_t r = first; r < last; ++r) y[r] = row_avx512(weight + r * cols, x, cols);
  } else if (isa == StreamIsa::kAvx2) {
    for (int64_t r = first; r < last; ++r) y[r] = row_avx2(weight + r * cols, x, cols);
  }
#endif
}

}  // namespace pomona::rivals
