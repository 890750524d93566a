#include "frozen_pg32.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Tests compile this file with literal stand-ins for the instructions (tests/isa_emulator).
#if defined(POMONA_EMULATED_ISA)
#define RIVALS_AVX512
#else
#define RIVALS_AVX512 __attribute__((target("avx512f")))
#endif

namespace pomona::rivals {
namespace {

constexpr int kRows = 32;          // of a group
constexpr int kWindow = 32;        // columns that a step sees
constexpr size_t kAlignment = 64;  // bytes

struct Rate {
  int blocks, words;
};

Rate rate_of(double density) {
  const double in_a_block = 16 * density;
  if (in_a_block < 0.9) return {5, 1};
  if (in_a_block < 2) return {3, 1};
  return {4, 3};
}

std::unique_ptr<uint32_t[], Free> zeroed_words(size_t count) {
  const size_t bytes = (count * sizeof(uint32_t) + kAlignment - 1) / kAlignment * kAlignment;
  auto* memory = static_cast<uint32_t*>(std::aligned_alloc(kAlignment, bytes));
  std::memset(memory, 0, bytes);
  return std::unique_ptr<uint32_t[], Free>(memory);
}

void pack_row(const CompressedRows& matrix, int row, FrozenPg32& packed) {
  const int steps = 3 * packed.words;
  const size_t group = static_cast<size_t>(row) / kRows, lane = static_cast<size_t>(row) % kRows;
  auto k = static_cast<size_t>(matrix.starts[static_cast<size_t>(row)]);
  const auto end = static_cast<size_t>(matrix.starts[static_cast<size_t>(row) + 1]);
  const auto spill = [&] {
    packed.spill_columns.push_back(static_cast<uint16_t>(matrix.columns[k]));
    packed.spill_values.push_back(packed.codebook[matrix.codes[k]]);
    ++k;
  };
  for (int s = 0; s < packed.superblocks; ++s) {
    for (int j = 0; j < steps; ++j) {
      const int low = (s * packed.blocks + j * packed.blocks / steps) * 8;
      while (k < end && matrix.columns[k] < low) spill();
      if (k < end && matrix.columns[k] < low + kWindow) {
        const auto slot = static_cast<uint32_t>(matrix.columns[k] - low) |
                          static_cast<uint32_t>(matrix.codes[k]) << 5;
        const size_t word =
            (group * static_cast<size_t>(packed.superblocks) + static_cast<size_t>(s)) *
                static_cast<size_t>(packed.words) +
            static_cast<size_t>(j / 3);
        packed.slots[word * kRows + lane] |= slot << (10 * (j % 3));
        ++k;
      }
    }
  }
  while (k < end) spill();
}

#if defined(__x86_64__)

float spilled(const FrozenPg32& packed, size_t row, const float* x) {
  auto k = static_cast<size_t>(packed.spill_starts[row]);
  const auto end = static_cast<size_t>(packed.spill_starts[row + 1]);
  const float* v = packed.spill_values.data();
  const uint16_t* c = packed.spill_columns.data();
  float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  for (; k + 4 <= end; k += 4) {
    s0 += v[k] * x[c[k]];
    s1 += v[k + 1] * x[c[k + 1]];
    s2 += v[k + 2] * x[c[k + 2]];
    s3 += v[k + 3] * x[c[k + 3]];
  }
  for (; k < end; ++k) s0 += v[k] * x[c[k]];
  return (s0 + s1) + (s2 + s3);
}

// The prototype's loop, instruction for instruction; unrolled whole for a superblock.
template <int kBlocks, int kWords>
RIVALS_AVX512 void run(const FrozenPg32& packed, const float* x, float* y, int first, int last) {
  constexpr int kSteps = 3 * kWords;
  const __m512 low_values = _mm512_loadu_ps(packed.codebook);
  const __m512 high_values = _mm512_loadu_ps(packed.codebook + 16);
  for (int r = first; r < last; r += kRows) {
    const uint32_t* p = packed.slots.get() + static_cast<size_t>(r / kRows) *
                                                 static_cast<size_t>(packed.superblocks) * kWords *
                                                 kRows;
    __m512 a0 = _mm512_setzero_ps(), a1 = a0, b0 = a0, b1 = a0;
    const float* window = x;
    for (int s = 0; s < packed.superblocks; ++s, window += 8 * kBlocks, p += kWords * kRows) {
#pragma GCC unroll 12
      for (int d = 0; d < kWords; ++d) {
        const __m512i v = _mm512_load_si512(p + d * kRows);
        const __m512i w = _mm512_load_si512(p + d * kRows + 16);
#pragma GCC unroll 3
        for (int q = 0; q < 3; ++q) {
          const int j = d * 3 + q, block = j * kBlocks / kSteps;
          const auto shift = static_cast<unsigned>(10 * q);
          const __m512 xa = _mm512_loadu_ps(window + 8 * block);
          const __m512 xb = _mm512_loadu_ps(window + 8 * block + 16);
          const __m512i vi = q ? _mm512_srli_epi32(v, shift) : v;
          const __m512i wi = q ? _mm512_srli_epi32(w, shift) : w;
          const __m512i vc = _mm512_srli_epi32(v, shift + 5), wc = _mm512_srli_epi32(w, shift + 5);
          const __m512 xv = _mm512_permutex2var_ps(xa, vi, xb);
          const __m512 xw = _mm512_permutex2var_ps(xa, wi, xb);
          const __m512 cv = _mm512_permutex2var_ps(low_values, vc, high_values);
          const __m512 cw = _mm512_permutex2var_ps(low_values, wc, high_values);
          if (j & 1) {
            a1 = _mm512_fmadd_ps(xv, cv, a1);
            b1 = _mm512_fmadd_ps(xw, cw, b1);
          } else {
            a0 = _mm512_fmadd_ps(xv, cv, a0);
            b0 = _mm512_fmadd_ps(xw, cw, b0);
          }
        }
      }
    }
    alignas(64) float sums[kRows];
    _mm512_store_ps(sums, _mm512_add_ps(a0, a1));
    _mm512_store_ps(sums + 16, _mm512_add_ps(b0, b1));
    const int count = std::min(kRows, last - r);
    for (int l = 0; l < count; ++l) {
      y[r + l] = sums[l] + spilled(packed, static_cast<size_t>(r + l), x);
    }
  }
}

#endif

}  // namespace

FrozenPg32 pack_frozen_pg32(const CompressedRows& matrix, const float* codebook) {
  FrozenPg32 packed;
  const double size = static_cast<double>(matrix.rows) * matrix.cols;
  const Rate rate = rate_of(size > 0 ? static_cast<double>(matrix.columns.size()) / size : 0.0);
  packed.rows = matrix.rows;
  packed.blocks = rate.blocks;
  packed.words = rate.words;
  packed.superblocks = ((matrix.cols + 7) / 8 + rate.blocks - 1) / rate.blocks;
  std::copy_n(codebook, 32, packed.codebook);
  const size_t groups = (static_cast<size_t>(matrix.rows) + kRows - 1) / kRows;
  const size_t words =
      groups * static_cast<size_t>(packed.superblocks) * static_cast<size_t>(rate.words) * kRows;
  packed.slots = zeroed_words(words + 64);
  for (int row = 0; row < matrix.rows; ++row) {
    packed.spill_starts.push_back(static_cast<int64_t>(packed.spill_columns.size()));
    pack_row(matrix, row, packed);
  }
  packed.spill_starts.push_back(static_cast<int64_t>(packed.spill_columns.size()));
  packed.bytes = words * sizeof(uint32_t) + packed.spill_columns.size() * 6;
  return packed;
}

bool has_frozen_pg32() {
#if defined(POMONA_EMULATED_ISA)
  return true;
#elif defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") != 0;
#else
  return false;
#endif
}

void multiply_frozen_pg32([[maybe_unused]] const FrozenPg32& packed,
                          [[maybe_unused]] const float* x, [[maybe_unused]] float* y,
                          [[maybe_unused]] int first, [[maybe_unused]] int last) {
#if defined(__x86_64__)
  if (packed.blocks == 5) {
    run<5, 1>(packed, x, y, first, last);
  } else if (packed.blocks == 3) {
    run<3, 1>(packed, x, y, first, last);
  } else {
    run<4, 3>(packed, x, y, first, last);
  }
#endif
}

}  // namespace pomona::rivals
