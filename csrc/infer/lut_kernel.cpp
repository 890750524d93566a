#include "infer/lut_kernel.h"

#include "base/float16.h"
#include "infer/lut_vector_kernel.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

namespace pomona {
namespace {

constexpr float kLeastUsable = 0x1p-100f;  // of |x| for bfloat16, which flushes denormals

int64_t padded_cols(const LutView& matrix) {
  return matrix.blocks() * matrix.block_cols();
}

bool has_low_plane(const LutView& matrix) {
  return matrix.form() == PackedForm::kBFloat16 && matrix.precision() == Precision::kFloat32;
}

// Element e of a block's vectors is which of its columns.
int64_t half_column(const LutView& matrix, int64_t e) {
  return 16 * (e / 32) + e % 32 / 2 + e % 2 * (matrix.block_cols() / 2);
}
int64_t byte_column(const LutView& matrix, int64_t e) {
  const int64_t codes = 8 / matrix.header.bits, vector = e / 64, byte = e % 64;
  return 16 * (codes * (byte % 4) + vector) + byte / 4;
}

LutInput lay_floats(const LutView& matrix, std::span<const float> x, std::span<std::byte> plane) {
  auto* floats = reinterpret_cast<float*>(plane.data());
  std::ranges::copy(x, floats);
  std::fill(floats + x.size(), floats + padded_cols(matrix), 0.0f);
  return {.form = PackedForm::kFloat32, .plane = plane.data()};
}

// Lays convert(x) of every column where column_of(element of a block) says; zero past the end.
template <class Element, class Column, class Convert>
void lay_plane(const LutView& matrix, std::span<const float> x, std::byte* plane,
               const Column& column_of, const Convert& convert) {
  auto* elements = reinterpret_cast<Element*>(plane);
  const int64_t block_cols = matrix.block_cols();
  std::array<int64_t, 256> columns;
  for (int64_t e = 0; e < block_cols; ++e) {
    columns[static_cast<size_t>(e)] = column_of(matrix, e);
  }
  for (int64_t first = 0; first < padded_cols(matrix); first += block_cols) {
    const auto of_block = x.subspan(static_cast<size_t>(first));
    for (int64_t e = 0; e < block_cols; ++e) {
      const auto column = static_cast<size_t>(columns[static_cast<size_t>(e)]);
      elements[first + e] = column < of_block.size() ? convert(of_block[column]) : Element{};
    }
  }
}

void lay_halves(const LutView& matrix, std::span<const float> x, std::byte* plane) {
  lay_plane<uint16_t>(matrix, x, plane, half_column, bfloat16_from_float);
  if (!has_low_plane(matrix)) return;
  lay_plane<uint16_t>(matrix, x, plane + 2 * padded_cols(matrix), half_column, [](float value) {
    return bfloat16_from_float(value - float_from_bfloat16(bfloat16_from_float(value)));
  });
}

void lay_bytes_plainly(const LutView& matrix, std::span<const float> x, UnsignedScale units,
                       std::byte* plane) {
  const float inverse = 1 / units.scale;
  lay_plane<uint8_t>(matrix, x, plane, byte_column, [&](float value) {
    return static_cast<uint8_t>(static_cast<int32_t>(std::lrint(value * inverse)) + units.offset);
  });
}

XRange x_range_of(Isa isa, std::span<const float> x) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx2) return x_range_avx2(x);
#endif
  static_cast<void>(isa);
  XRange range;
  for (const float value : x) {
    range.is_finite &= std::isfinite(value);
    range.low = std::min(range.low, value);
    range.high = std::max(range.high, value);
  }
  return range;
}

bool has_too_small(std::span<const float> x) {
  return std::ranges::any_of(
      x, [](float value) { return value != 0 && std::abs(value) < kLeastUsable; });
}

// x in bytes; those that the AVX2 form takes have a sign and are 128 less.
UnsignedScale lay_bytes(Isa isa, const LutView& matrix, std::span<const float> x,
                        UnsignedScale units, std::byte* plane) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx2) {
    const bool is_signed = isa < Isa::kAvx512Vnni;
    if (is_signed) units.offset -= 128;
    lay_lut_bytes_avx2(matrix, x, units, is_signed, plane);
    return units;
  }
#endif
  static_cast<void>(isa);
  lay_bytes_plainly(matrix, x, units, plane);
  return units;
}

// Calls add(sums of the row, element of the plane, its column in the block, code) for every weight;
// column_of(matrix, element of a block) is as in lay_plane.
template <class Sums, class Column, class Add>
void for_each_code(const LutView& matrix, const LutRows& rows, Sums& sums, const Column& column_of,
                   const Add& add) {
  const int64_t block_cols = matrix.block_cols();
  for (int r = 0; r < rows.count; ++r) {
    auto& of_row = sums[static_cast<size_t>(r)];
    of_row.fill(0);
    for (int64_t i = 0; i < padded_cols(matrix); ++i) {
      const int64_t column = column_of(matrix, i % block_cols);
      const uint32_t word = rows.words[r][i / block_cols * kLutWords + column % 16];
      add(of_row, i, column, word >> (matrix.header.bits * (column / 16)) & 255);
    }
  }
}

void add_floats_plainly(const LutView& matrix, const LutRows& rows, const std::byte* plane,
                        LutFloatSums& sums) {
  const auto* x = reinterpret_cast<const float*>(plane);
  const auto in_order = [](const LutView&, int64_t e) { return e; };
  for_each_code(matrix, rows, sums, in_order,
                [&](auto& of_row, int64_t i, int64_t column, uint32_t code) {
                  auto& sum = of_row[static_cast<size_t>(column % 32)];
                  sum = std::fma(matrix.codebook->values[code], x[i], sum);
                });
}

// Products of bfloat16 are exact in float32; the order of a pair is not that of every machine.
void add_halves_plainly(const LutView& matrix, const LutRows& rows, const std::byte* plane,
                        LutFloatSums& sums) {
  const auto* x = reinterpret_cast<const uint16_t*>(plane);
  const int64_t low_at = padded_cols(matrix);
  for_each_code(
      matrix, rows, sums, half_column, [&](auto& of_row, int64_t i, int64_t column, uint32_t code) {
        const float w = float_from_bfloat16(bfloat16_from_float(matrix.codebook->values[code]));
        auto& high = of_row[static_cast<size_t>(column % 16)];
        auto& low = of_row[static_cast<size_t>(16 + column % 16)];
        high = std::fma(float_from_bfloat16(x[i]), w, high);
        if (has_low_plane(matrix)) low = std::fma(float_from_bfloat16(x[low_at + i]), w, low);
      });
}

void add_bytes_plainly(const LutView& matrix, const LutRows& rows, const std::byte* plane,
                       LutByteSums& sums) {
  const auto* x = reinterpret_cast<const uint8_t*>(plane);
  for_each_code(
      matrix, rows, sums, byte_column, [&](auto& of_row, int64_t i, int64_t column, uint32_t code) {
        of_row[static_cast<size_t>(column % 16)] += int32_t{x[i]} * matrix.codebook->bytes[code];
      });
}

void add_floats(Isa isa, const LutView& matrix, const LutRows& rows, const LutInput& input,
                LutFloatSums& sums) {
  const bool is_half = input.form == PackedForm::kBFloat16;
#if defined(__x86_64__)
  if (is_half && isa >= Isa::kAvx512BFloat16) {
    return add_lut_halves_avx512(matrix, rows, input.plane, sums);
  }
  if (!is_half && isa >= Isa::kAvx512) {
    return add_lut_floats_avx512(matrix, rows, input.plane, sums);
  }
  if (!is_half && isa >= Isa::kAvx2) return add_lut_floats_avx2(matrix, rows, input.plane, sums);
#endif
  static_cast<void>(isa);
  is_half ? add_halves_plainly(matrix, rows, input.plane, sums)
          : add_floats_plainly(matrix, rows, input.plane, sums);
}

void add_bytes(Isa isa, const LutView& matrix, const LutRows& rows, const LutInput& input,
               LutByteSums& sums) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512Vnni) return add_lut_bytes_avx512(matrix, rows, input.plane, sums);
  if (isa >= Isa::kAvx2) return add_lut_bytes_avx2(matrix, rows, input.plane, sums);
#endif
  static_cast<void>(isa);
  add_bytes_plainly(matrix, rows, input.plane, sums);
}

float total_of(const std::array<float, 32>& sums) {
  std::array<float, 16> lanes;
  for (size_t l = 0; l < 16; ++l) lanes[l] = sums[l] + sums[16 + l];
  for (size_t width = 8; width > 0; width /= 2) {
    for (size_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  return lanes[0];
}

float total_of(const std::array<int32_t, 16>& sums, const LutView& matrix, UnsignedScale units,
               int64_t row) {
  int64_t whole = -int64_t{units.offset} * matrix.sums[row];
  for (const int32_t sum : sums) whole += sum;
  return static_cast<float>(static_cast<double>(whole) * static_cast<double>(units.scale) *
                            static_cast<double>(matrix.codebook->scale));
}

}  // namespace

int64_t lut_input_bytes(const LutView& matrix) {
  return padded_cols(matrix) * static_cast<int64_t>(sizeof(float));  // the most of any form
}

LutInput make_lut_input(const LutView& matrix, std::span<const float> x, std::span<std::byte> plane,
                        Isa isa) {
  if (matrix.form() == PackedForm::kFloat32) return lay_floats(matrix, x, plane);
  const bool is_half = matrix.form() == PackedForm::kBFloat16;
  const XRange range = x_range_of(resolve_isa(isa), x);
  if (!range.is_finite || (is_half && has_too_small(x))) return lay_floats(matrix, x, plane);
  LutInput input{.form = matrix.form(), .plane = plane.data()};
  if (is_half) {
    lay_halves(matrix, x, plane.data());
  } else {
    const auto units = unsigned_scale(matrix.precision(), range.low, range.high);
    input.units = lay_bytes(resolve_isa(isa), matrix, x, units, plane.data());
  }
  return input;
}

void multiply_lut(const LutView& matrix, const LutInput& input, const float* bias, bool has_relu,
                  float* y, RowRange range, Isa isa) {
  isa = resolve_isa(isa);
  const int64_t stride = matrix.blocks() * kLutWords;
  LutFloatSums floats;
  LutByteSums bytes;
  for (int64_t first = range.first; first < range.last; first += kLutRows) {
    LutRows rows{{}, static_cast<int>(std::min<int64_t>(kLutRows, range.last - first))};
    for (int r = 0; r < rows.count; ++r) rows.words[r] = matrix.words + (first + r) * stride;
    const bool is_bytes = input.form == PackedForm::kBytes;
    is_bytes ? add_bytes(isa, matrix, rows, input, bytes)
             : add_floats(isa, matrix, rows, input, floats);
    for (int64_t row = first; row < first + rows.count; ++row) {
      const auto r = static_cast<size_t>(row - first);
      float sum = is_bytes ? total_of(bytes[r], matrix, input.units, row) : total_of(floats[r]);
      if (bias != nullptr) sum += bias[row];
      y[row] = has_relu && sum < 0 ? 0.0f : sum;
    }
  }
}

}  // namespace pomona
