#include "infer/pg_kernel.h"

#include "base/float16.h"
#include "infer/pg_vector_kernel.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace pomona {
namespace {

constexpr float kLeastUsable = 0x1p-100f;  // of |x| for bfloat16, which flushes denormals

int64_t planes_of(const PgView& matrix) {
  return matrix.precision() == Precision::kFixed16 || (matrix.form() == PackedForm::kBFloat16 &&
                                                       matrix.precision() == Precision::kFloat32)
             ? 2
             : 1;
}

// The natural view of a plane is elements in their order; the second has its words transposed.
template <class Element>
void lay_second_view(const PgView& matrix, Element* plane) {
  constexpr auto kElements = static_cast<int64_t>(4 / sizeof(Element));
  const int64_t blocks = pg_blocks(matrix.header.cols, matrix.form());
  Element* second = plane + pg_second_at(blocks) / static_cast<int64_t>(sizeof(Element));
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t word = 0; word < kPgWords; ++word) {
      std::copy_n(plane + (word * blocks + block) * kElements, kElements,
                  second + (block * kPgWords + word) * kElements);
    }
  }
}

template <class Element, class Convert>
void lay_plane(const PgView& matrix, std::span<const float> x, std::byte* plane,
               const Convert& convert) {
  auto* elements = reinterpret_cast<Element*>(plane);
  std::fill_n(elements, static_cast<size_t>(matrix.plane_bytes()) / sizeof(Element), Element{});
  std::ranges::transform(x, elements, convert);
  lay_second_view(matrix, elements);
}

bool is_usable(const PgView& matrix, std::span<const float> x) {
  const bool is_bfloat16 = matrix.form() == PackedForm::kBFloat16;
  return std::ranges::all_of(x, [&](float value) {
    return std::isfinite(value) && !(is_bfloat16 && value != 0 && std::abs(value) < kLeastUsable);
  });
}

void lay_fixed_point(const PgView& matrix, std::span<const float> x, std::byte* planes,
                     PgInput& input) {
  float low = 0, high = 0;
  for (const float value : x) low = std::min(low, value), high = std::max(high, value);
  input.units = unsigned_scale(matrix.precision(), low, high);
  const float inverse = 1 / input.units.scale;
  const auto whole = [&](float value) {
    return static_cast<int32_t>(std::lrint(value * inverse)) + input.units.offset;
  };
  if (matrix.precision() == Precision::kInt8) {
    lay_plane<uint8_t>(matrix, x, planes,
                       [&](float value) { return static_cast<uint8_t>(whole(value)); });
    return;
  }
  lay_plane<uint8_t>(matrix, x, planes,
                     [&](float value) { return static_cast<uint8_t>(whole(value) >> 8); });
  lay_plane<uint8_t>(matrix, x, planes + matrix.plane_bytes(),
                     [&](float value) { return static_cast<uint8_t>(whole(value) & 255); });
}

// Calls visit(first word of the window, slot) for every slot of a lane, in order.
template <class Visit>
void for_each_slot(const PgView& matrix, const PgGroup& group, int64_t lane, const Visit& visit) {
  const auto& schedule = matrix.schedules[group.schedule];
  const auto shape = pg_shape(matrix.form());
  for (int64_t s = 0; s < schedule.steps; ++s) {
    const auto& offsets = matrix.steps[schedule.begin + static_cast<size_t>(s)];
    for (int64_t slot = 0; slot < shape.slots; ++slot) {
      visit(offsets,
            pg_slot(matrix.form(), matrix.stream + group.stream_at, group.vectors, s, lane, slot));
    }
  }
}

// The element of a window: of the first register's half, or of the second's.
template <class Element>
Element element_of(const std::byte* plane, const PgOffsets& offsets, uint32_t index) {
  constexpr uint32_t kHalf = 64 / sizeof(Element);
  Element element;
  const uint32_t at = index < kHalf ? offsets.first : offsets.second;
  std::memcpy(&element, plane + at + index % kHalf * sizeof(Element), sizeof element);
  return element;
}

float float_sum(const PgView& matrix, const PgInput& input, const PgGroup& group, int64_t lane) {
  float sum = 0;
  for_each_slot(matrix, group, lane, [&](const PgOffsets& offsets, PgSlot slot) {
    sum = std::fma(element_of<float>(input.planes, offsets, slot.index),
                   matrix.codebook->values[slot.code], sum);
  });
  return sum;
}

// Products of bfloat16 are exact in float32; the order of a pair is not that of every machine.
float bfloat16_sum(const PgView& matrix, const PgInput& input, const PgGroup& group, int64_t lane) {
  const auto& book = *matrix.codebook;
  const bool has_low_x = matrix.precision() == Precision::kFloat32;
  float high = 0, low = 0;
  for_each_slot(matrix, group, lane, [&](const PgOffsets& offsets, PgSlot slot) {
    const auto x = [&](int64_t plane) {
      return float_from_bfloat16(
          element_of<uint16_t>(input.planes + plane * matrix.plane_bytes(), offsets, slot.index));
    };
    const float w = float_from_bfloat16(book.high[slot.code]);
    high = std::fma(x(0), w, high);
    if (has_low_x) low = std::fma(x(1), w, low);
    if (book.has_low != 0) low = std::fma(x(0), float_from_bfloat16(book.low[slot.code]), low);
  });
  return high + low;
}

float fixed_point_sum(const PgView& matrix, const PgInput& input, const PgGroup& group,
                      int64_t lane, int32_t weights) {
  const auto& book = *matrix.codebook;
  const bool is_int8 = matrix.precision() == Precision::kInt8;
  int64_t sum = 0;
  for_each_slot(matrix, group, lane, [&](const PgOffsets& offsets, PgSlot slot) {
    int64_t x = element_of<uint8_t>(input.planes, offsets, slot.index);
    int64_t w = book.byte_high[slot.code];
    if (!is_int8) {
      x = 256 * x + element_of<uint8_t>(input.planes + matrix.plane_bytes(), offsets, slot.index);
      w = 256 * w + book.byte_low[slot.code];
    }
    sum += x * w;
  });
  sum -= int64_t{input.units.offset} * weights;
  return static_cast<float>(static_cast<double>(sum) * (static_cast<double>(input.units.scale) *
                                                        static_cast<double>(book.scale)));
}

void multiply_group_plainly(const PgView& matrix, const PgInput& input, const PgGroup& group,
                            float* sums) {
  const int64_t lanes = int64_t{16} * group.vectors;
  const auto* of_lanes = matrix.sums.data() + (&group - matrix.groups.data()) * kPgLanes;
  for (int64_t lane = 0; lane < lanes; ++lane) {
    switch (matrix.form()) {
      case PackedForm::kFloat32:
        sums[lane] = float_sum(matrix, input, group, lane);
        break;
      case PackedForm::kBFloat16:
        sums[lane] = bfloat16_sum(matrix, input, group, lane);
        break;
      case PackedForm::kBytes:
        sums[lane] = fixed_point_sum(matrix, input, group, lane, of_lanes[lane]);
        break;
    }
  }
}

void add_level_plainly(const PgSpilled& level, const float* x, float* sums) {
  for (size_t l = 0; l < 16; ++l) {
    sums[l] = std::fma(level.values[l], x[level.columns[l]], sums[l]);
  }
}

struct RowSpan {
  int64_t first, last;
};

RowSpan rows_of_block(const PgView& matrix, int64_t block) {
  const int64_t first = block * kPgBlockRows;
  return {first, std::min(first + kPgBlockRows, matrix.header.rows)};
}

}  // namespace

int64_t pg_input_bytes(const PgView& matrix) {
  return planes_of(matrix) * matrix.plane_bytes();
}

bool has_pg_isa(const PgView& matrix, Isa isa) {
  isa = resolve_isa(isa);
  if (isa < Isa::kAvx512) return has_isa(isa);
  switch (matrix.form()) {
    case PackedForm::kFloat32:
      return has_isa(Isa::kAvx512);
    case PackedForm::kBFloat16:
      return has_isa(Isa::kAvx512BFloat16);
    case PackedForm::kBytes:
      return has_isa(Isa::kAvx512Vnni);
  }
  return false;
}

namespace {

enum class Way { kPlain, kAvx2, kAvx512 };

// How a group is multiplied: what `isa` and this machine have for its form.
Way way_of(const PgView& matrix, Isa isa) {
  isa = resolve_isa(isa);
  if (isa >= Isa::kAvx512 && has_pg_isa(matrix, isa)) return Way::kAvx512;
  if (isa >= Isa::kAvx2 && has_isa(Isa::kAvx2) && matrix.form() != PackedForm::kBFloat16) {
    return Way::kAvx2;
  }
  return Way::kPlain;
}

void multiply_group(Way way, const PgView& matrix, const PgInput& input, const PgGroup& group,
                    float* sums) {
#if defined(__x86_64__)
  if (way == Way::kAvx512) return multiply_group_avx512(matrix, input, group, sums);
  if (way == Way::kAvx2) return multiply_group_avx2(matrix, input, group, sums);
#endif
  multiply_group_plainly(matrix, input, group, sums);
}

void add_spilled(Way way, const PgView& matrix, const float* x, size_t group, float* sums) {
  for (size_t v = 0; v < matrix.groups[group].vectors; ++v, sums += 16) {
    for (uint32_t d = matrix.levels[4 * group + v]; d < matrix.levels[4 * group + v + 1]; ++d) {
      const auto& level = matrix.spilled[d];
#if defined(__x86_64__)
      if (way != Way::kPlain) {
        add_level_avx2(level, x, sums);
        continue;
      }
#endif
      add_level_plainly(level, x, sums);
    }
  }
}

}  // namespace

PgInput make_pg_input(const PgView& matrix, std::span<const float> x, std::span<std::byte> planes,
                      Isa isa) {
#if defined(__x86_64__)
  const Way way = way_of(matrix, isa);
  if (way == Way::kAvx512) return make_pg_input_avx512(matrix, x, planes);
  if (way == Way::kAvx2) return make_pg_input_avx2(matrix, x, planes);
#else
  static_cast<void>(isa);
#endif
  PgInput input{.x = x.data(), .planes = planes.data(), .is_usable = is_usable(matrix, x)};
  if (!input.is_usable) return input;
  switch (matrix.form()) {
    case PackedForm::kFloat32:
      lay_plane<float>(matrix, x, planes.data(), [](float value) { return value; });
      break;
    case PackedForm::kBFloat16:
      lay_plane<uint16_t>(matrix, x, planes.data(), bfloat16_from_float);
      if (planes_of(matrix) == 2) {
        lay_plane<uint16_t>(matrix, x, planes.data() + matrix.plane_bytes(), [](float value) {
          return bfloat16_from_float(value - float_from_bfloat16(bfloat16_from_float(value)));
        });
      }
      break;
    case PackedForm::kBytes:
      lay_fixed_point(matrix, x, planes.data(), input);
      break;
  }
  return input;
}

void multiply_pg(const PgView& matrix, const PgInput& input, const float* bias, bool has_relu,
                 float* y, int64_t first_block, int64_t last_block, Isa isa) {
  const Way way = way_of(matrix, isa);
  alignas(64) std::array<float, kPgLanes> sums{};
  for (int64_t block = first_block; block < last_block; ++block) {
    const auto [first, last] = rows_of_block(matrix, block);
    for (int64_t row = first; row < last; ++row) y[row] = bias != nullptr ? bias[row] : 0.0f;
    const auto end = matrix.blocks[static_cast<size_t>(block) + 1];
    for (size_t g = matrix.blocks[static_cast<size_t>(block)]; g < end; ++g) {
      const auto& group = matrix.groups[g];
      multiply_group(way, matrix, input, group, sums.data());
      add_spilled(way, matrix, input.x, g, sums.data());
      for (size_t l = 0; l < 16 * group.vectors; ++l) {
        const uint32_t row = matrix.lanes[g * kPgLanes + l];
        if (row != kPgNoRow) y[row] += sums[l];
      }
    }
    if (!has_relu) continue;
    for (int64_t row = first; row < last; ++row) y[row] = y[row] < 0 ? 0 : y[row];
  }
}

namespace {

// Calls visit(row, column, weight) for every stored weight.
template <class Visit>
void for_each_weight(const PgView& matrix, const Visit& visit) {
  for (size_t g = 0; g < matrix.groups.size(); ++g) {
    const auto& group = matrix.groups[g];
    for (size_t l = 0; l < 16 * group.vectors; ++l) {
      const uint32_t row = matrix.lanes[g * kPgLanes + l];
      if (row == kPgNoRow) continue;
      for_each_slot(matrix, group, static_cast<int64_t>(l),
                    [&](const PgOffsets& offsets, PgSlot slot) {
                      if (slot.code == 0) return;
                      const int64_t column = pg_column(matrix, offsets, slot.index);
                      if (column < matrix.header.cols) {
                        visit(row, column, matrix.codebook->values[slot.code]);
                      }
                    });
      const size_t vector = 4 * g + l / 16;
      for (uint32_t d = matrix.levels[vector]; d < matrix.levels[vector + 1]; ++d) {
        const auto& level = matrix.spilled[d];
        if (level.values[l % 16] != 0) visit(row, level.columns[l % 16], level.values[l % 16]);
      }
    }
  }
}

}  // namespace

void unpack_pg(const PgView& matrix, float* dense) {
  for_each_weight(matrix, [&](int64_t row, int64_t column, float weight) {
    dense[row * matrix.header.cols + column] = weight;
  });
}

void multiply_pg_slowly(const PgView& matrix, std::span<const float> x, const float* bias,
                        bool has_relu, float* y) {
  const auto rows = static_cast<size_t>(matrix.header.rows);
  int64_t not_finite = std::ranges::count_if(x, [](float value) { return !std::isfinite(value); });
  std::vector<double> sums(rows);
  std::vector<int64_t> met(rows);  // of those, what a stored weight multiplies
  for_each_weight(matrix, [&](int64_t row, int64_t column, float weight) {
    const float value = x[static_cast<size_t>(column)];
    sums[static_cast<size_t>(row)] += static_cast<double>(weight) * static_cast<double>(value);
    met[static_cast<size_t>(row)] += !std::isfinite(value);
  });
  for (size_t row = 0; row < rows; ++row) {
    auto sum = static_cast<float>(sums[row]) + (bias != nullptr ? bias[row] : 0.0f);
    if (met[row] != not_finite) sum = std::numeric_limits<float>::quiet_NaN();
    y[row] = has_relu && sum < 0 ? 0.0f : sum;
  }
}

}  // namespace pomona
