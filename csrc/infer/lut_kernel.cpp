#include "infer/lut_kernel.h"

#include "base/text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pomona {
namespace {

constexpr int kLanes = 16;
constexpr int kNibbles = 8;
constexpr int kRows = 4;  // that share the loads of x

using Sums = std::array<std::array<float, 2 * kLanes>, kRows>;  // even s, then odd s

int64_t lut_bytes(int64_t rows, int64_t cols) {
  const int64_t blocks = (cols + kLutColumns - 1) / kLutColumns;
  return static_cast<int64_t>(sizeof(LutHeader)) + kLutCodes * 4 + rows * blocks * kLanes * 4;
}

// The code of zero, if a weight is zero, comes first.
std::vector<float> values_of(const Weight& matrix) {
  std::vector<float> values;
  if (matrix.mask.kept() < matrix.mask.size()) values.push_back(0);
  values.insert(values.end(), matrix.codebook.begin(), matrix.codebook.end());
  return values;
}

void add_plainly(const float* codebook, const uint32_t* const* rows, int count, int64_t blocks,
                 const float* x, Sums& sums) {
  for (int r = 0; r < count; ++r) {
    sums[static_cast<size_t>(r)].fill(0);
    for (int64_t i = 0; i < blocks * kNibbles * kLanes; ++i) {
      const int64_t block = i / kLutColumns, s = i % kLutColumns / kLanes, lane = i % kLanes;
      const uint32_t code = rows[r][block * kLanes + lane] >> (4 * s) & 15;
      auto& sum = sums[static_cast<size_t>(r)][static_cast<size_t>(s % 2 * kLanes + lane)];
      sum = std::fma(codebook[code], x[i], sum);
    }
  }
}

#if defined(__x86_64__)

#if defined(POMONA_EMULATED_ISA)  // tests/isa_emulator needs no target
#define POMONA_TARGET(features)
#else
#define POMONA_TARGET(features) __attribute__((target(features)))
#endif

// The permute looks at the low four bits of a word.
template <int kCount>
POMONA_TARGET("avx512f")
void add_avx512(const float* codebook, const uint32_t* const* rows, int64_t blocks, const float* x,
                Sums& sums) {
  const __m512 table = _mm512_loadu_ps(codebook);
  __m512 totals[kCount][2];
  for (auto& total : totals) total[0] = total[1] = _mm512_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b, x += kLutColumns) {
    __m512i words[kCount];
    for (int r = 0; r < kCount; ++r) words[r] = _mm512_loadu_si512(rows[r] + b * kLanes);
#pragma GCC unroll 8
    for (int s = 0; s < kNibbles; ++s) {
      const __m512 inputs = _mm512_loadu_ps(x + s * kLanes);
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        const __m512i codes = _mm512_srli_epi32(words[r], static_cast<unsigned>(4 * s));
        totals[r][s % 2] =
            _mm512_fmadd_ps(_mm512_permutexvar_ps(codes, table), inputs, totals[r][s % 2]);
      }
    }
  }
  for (int r = 0; r < kCount; ++r) {
    _mm512_storeu_ps(sums[static_cast<size_t>(r)].data(), totals[r][0]);
    _mm512_storeu_ps(sums[static_cast<size_t>(r)].data() + kLanes, totals[r][1]);
  }
}

// Eight lanes at a time: the table is two registers, chosen by the fourth bit.
POMONA_TARGET("avx2,fma")
void add_avx2(const float* codebook, const uint32_t* const* rows, int count, int64_t blocks,
              const float* x, Sums& sums) {
  const __m256 low = _mm256_loadu_ps(codebook), high = _mm256_loadu_ps(codebook + 8);
  for (int r = 0; r < count; ++r) {
    for (int half = 0; half < 2; ++half) {
      __m256 totals[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
      for (int64_t b = 0; b < blocks; ++b) {
        const auto* at = reinterpret_cast<const __m256i*>(rows[r] + b * kLanes + 8 * half);
        const __m256i words = _mm256_loadu_si256(at);
        const float* inputs = x + b * kLutColumns + 8 * half;
#pragma GCC unroll 8
        for (int s = 0; s < kNibbles; ++s) {
          const __m256i codes = _mm256_srli_epi32(words, 4 * s);
          const __m256 fourth = _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28));
          const __m256 weights = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, codes),
                                                  _mm256_permutevar8x32_ps(high, codes), fourth);
          totals[s % 2] =
              _mm256_fmadd_ps(weights, _mm256_loadu_ps(inputs + s * kLanes), totals[s % 2]);
        }
      }
      auto& sum = sums[static_cast<size_t>(r)];
      _mm256_storeu_ps(sum.data() + 8 * half, totals[0]);
      _mm256_storeu_ps(sum.data() + kLanes + 8 * half, totals[1]);
    }
  }
}

#endif

void add_rows(Isa isa, const float* codebook, const uint32_t* const* rows, int count,
              int64_t blocks, const float* x, Sums& sums) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) {
    if (count == kRows) return add_avx512<kRows>(codebook, rows, blocks, x, sums);
    for (int r = 0; r < count; ++r) {
      Sums one;
      add_avx512<1>(codebook, rows + r, blocks, x, one);
      sums[static_cast<size_t>(r)] = one[0];
    }
    return;
  }
  if (isa >= Isa::kAvx2) return add_avx2(codebook, rows, count, blocks, x, sums);
#endif
  static_cast<void>(isa);
  add_plainly(codebook, rows, count, blocks, x, sums);
}

float total_of(const std::array<float, 2 * kLanes>& sums) {
  std::array<float, kLanes> lanes;
  for (size_t l = 0; l < kLanes; ++l) lanes[l] = sums[l] + sums[kLanes + l];
  for (size_t width = kLanes / 2; width > 0; width /= 2) {
    for (size_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  return lanes[0];
}

}  // namespace

std::string why_not_lut(const Weight& matrix) {
  if (!matrix.is_shared()) return "it has more than 256 different values";
  const auto values = values_of(matrix).size();
  if (values > kLutCodes) return text("it has ", values, " different values, more than 16");
  return "";
}

std::vector<std::byte> pack_lut(const Weight& matrix) {
  const int64_t rows = matrix.shape[0], cols = matrix.shape[1];
  const int64_t blocks = (cols + kLutColumns - 1) / kLutColumns;
  LutHeader header{.rows = rows, .cols = cols, .nnz = matrix.mask.kept()};
  header.size = lut_bytes(rows, cols);
  std::vector<std::byte> bytes(static_cast<size_t>(header.size));
  std::memcpy(bytes.data(), &header, sizeof header);
  const auto values = values_of(matrix);
  std::memcpy(bytes.data() + sizeof header, values.data(), values.size() * sizeof(float));
  auto* words = reinterpret_cast<uint32_t*>(bytes.data() + sizeof header + kLutCodes * 4);
  const uint32_t shift = values.size() > matrix.codebook.size() ? 1 : 0;  // past the zero
  size_t e = 0;
  for_each_kept(matrix.mask, [&](size_t i) {
    const int64_t row = static_cast<int64_t>(i) / cols, column = static_cast<int64_t>(i) % cols;
    const int64_t within = column % kLutColumns;
    uint32_t& word = words[(row * blocks + column / kLutColumns) * kLanes + within % kLanes];
    word |= (matrix.codes[e++] + shift) << (4 * (within / kLanes));
  });
  return bytes;
}

LutView check_lut(std::span<const std::byte> bytes) {
  check_packed_start(bytes, sizeof(LutHeader), Layout::kLut, kLutVersion);
  LutView view;
  std::memcpy(&view.header, bytes.data(), sizeof view.header);
  const auto& h = view.header;
  const auto most = static_cast<int64_t>(bytes.size()) * 2;  // two codes a byte
  if (h.rows < 0 || h.rows > most) refuse_packed("with rows that fit it", h.rows);
  if (h.cols < 0 || h.cols > most) refuse_packed("with cols that fit it", h.cols);
  if (h.rows > 0 && h.cols > most / h.rows) refuse_packed("with rows and cols that fit it", h.cols);
  if (h.size != std::ssize(bytes) || h.size != lut_bytes(h.rows, h.cols)) {
    refuse_packed(text("of ", lut_bytes(h.rows, h.cols), " bytes"), bytes.size());
  }
  if (h.nnz < 0 || h.nnz > h.rows * h.cols) refuse_packed("with nnz of its shape", h.nnz);
  view.codebook = reinterpret_cast<const float*>(bytes.data() + sizeof h);
  view.words = reinterpret_cast<const uint32_t*>(bytes.data() + sizeof h + kLutCodes * 4);
  return view;
}

void unpack_lut_row(const LutView& matrix, int64_t row, float* dense) {
  const uint32_t* words = matrix.words + row * matrix.blocks() * kLanes;
  for (int64_t c = 0; c < matrix.header.cols; ++c) {
    const int64_t within = c % kLutColumns;
    const uint32_t word = words[c / kLutColumns * kLanes + within % kLanes];
    dense[c] = matrix.codebook[word >> (4 * (within / kLanes)) & 15];
  }
}

void unpack_lut(const LutView& matrix, float* dense) {
  for (int64_t row = 0; row < matrix.header.rows; ++row) {
    unpack_lut_row(matrix, row, dense + row * matrix.header.cols);
  }
}

void pad_lut_input(const LutView& matrix, std::span<const float> x, std::span<float> padded) {
  std::ranges::copy(x, padded.begin());
  std::ranges::fill(padded.subspan(static_cast<size_t>(matrix.header.cols)), 0.0f);
}

void multiply_lut(const LutView& matrix, const float* padded, const float* bias, bool has_relu,
                  float* y, RowRange range, Isa isa) {
  isa = resolve_isa(isa);
  const int64_t blocks = matrix.blocks();
  Sums sums;
  for (int64_t row = range.first; row < range.last; row += kRows) {
    const auto count = static_cast<int>(std::min<int64_t>(kRows, range.last - row));
    const uint32_t* rows[kRows] = {};
    for (int r = 0; r < count; ++r) rows[r] = matrix.words + (row + r) * blocks * kLanes;
    add_rows(isa, matrix.codebook, rows, count, blocks, padded, sums);
    for (int r = 0; r < count; ++r) {
      float sum = total_of(sums[static_cast<size_t>(r)]);
      if (bias != nullptr) sum += bias[row + r];
      y[row + r] = has_relu && sum < 0 ? 0.0f : sum;
    }
  }
}

}  // namespace pomona
