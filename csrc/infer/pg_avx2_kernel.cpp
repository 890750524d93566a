// The AVX2 forms of kFloat32 and kBytes. vpshufb looks up 32 bytes at once, each in 16, at half the
// price of a permute of eight words: so words are looked up byte by byte and put together again. x
// is as pg_avx2_input.cpp lays it.

#include "infer/byte_planes.h"

#if defined(__x86_64__)

#include "infer/pg_vector_kernel.h"
#include "infer/with_flags.h"

#include <array>

namespace pomona {
namespace {

POMONA_AVX2 POMONA_INLINE __m256i load(const std::byte* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

// Of two tables, the second where `which` has the sign bit. The index's own must not be set.
POMONA_AVX2 POMONA_INLINE __m256i entries_of_32(const std::byte* low, const std::byte* high,
                                                __m256i index, __m256i which) {
  return _mm256_blendv_epi8(_mm256_shuffle_epi8(table_at(low), index),
                            _mm256_shuffle_epi8(table_at(high), index), which);
}

// Of eight tables in a row, a half of them from `low` and a half from `high`, by seven bits.
POMONA_AVX2 POMONA_INLINE __m256i entries_of_128(const std::byte* low, const std::byte* high,
                                                 __m256i index) {
  const __m256i seventh = _mm256_add_epi8(index, index);  // bit 6, 5, 4 where the sign is
  const __m256i sixth = _mm256_add_epi8(seventh, seventh);
  const __m256i fifth = _mm256_add_epi8(sixth, sixth);
  const auto of_64 = [&](const std::byte* tables) POMONA_AVX2 {
    return _mm256_blendv_epi8(entries_of_32(tables, tables + 16, index, fifth),
                              entries_of_32(tables + 32, tables + 48, index, fifth), sixth);
  };
  return _mm256_blendv_epi8(of_64(low), of_64(high), seventh);
}

// The slots of 32 lanes, two vectors, in three steps. Lanes l and 8 + l of a vector share a word:
// 16 bits of three indices, and 16 of three codes.
struct Slots {
  __m256i first, second;  // of the first vector and of the second

  // Of a step, in bytes: lane l of the first vector, of the second, lane 8 + l of both, ...
  template <int kStep>
  POMONA_AVX2 POMONA_INLINE __m256i at_step() const {
    constexpr int kShift = 5 * kStep;
    const __m256i of_second =
        kShift <= 8 ? _mm256_slli_epi16(second, 8 - kShift) : _mm256_srli_epi16(second, kShift - 8);
    const __m256i is_second = _mm256_set1_epi16(static_cast<int16_t>(0xff00));
    return _mm256_and_si256(
        _mm256_blendv_epi8(_mm256_srli_epi16(first, kShift), of_second, is_second),
        _mm256_set1_epi8(31));
  }
};

POMONA_AVX2 POMONA_INLINE __m256i indices_of(const std::byte* vector) {
  return _mm256_blend_epi16(load(vector), _mm256_slli_epi32(load(vector + 32), 16), 0xaa);
}
POMONA_AVX2 POMONA_INLINE __m256i codes_of(const std::byte* vector) {
  return _mm256_blend_epi16(_mm256_srli_epi32(load(vector), 16), load(vector + 32), 0xaa);
}

// One step of 32 lanes. kIsWide: more than 16 codes; kIsHalf: their low two bytes are 0.
template <int kStep, bool kIsWide, bool kIsHalf>
POMONA_AVX2 POMONA_INLINE void add_step(const std::byte* first, const std::byte* second,
                                        const Slots& indices, const Slots& codes,
                                        const std::byte* book, __m256* totals) {
  const __m256i index = indices.at_step<kStep>(), code = codes.at_step<kStep>();
  const __m256i index_fifth = _mm256_slli_epi16(index, 3), code_fifth = _mm256_slli_epi16(code, 3);
  __m256i planes[4];
  __m256 x[4], w[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    planes[k] = entries_of_32(first + 16 * k, second + 16 * k, index, index_fifth);
  }
  join_planes(planes, x);
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const std::byte* plane = book + 16 * k;
    if (kIsHalf && k < 2) {
      planes[k] = _mm256_setzero_si256();
    } else if (kIsWide) {
      planes[k] = entries_of_32(plane, plane + 64, code, code_fifth);
    } else {
      planes[k] = _mm256_shuffle_epi8(table_at(plane), code);
    }
  }
  join_planes(planes, w);
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) totals[k] = _mm256_fmadd_ps(x[k], w[k], totals[k]);
}

struct Stream {
  const std::byte* bytes;
  const PgOffsets* offsets;
  uint32_t steps;
  int64_t stride;  // bytes of all vectors, for as many steps as stand together
};

Stream stream_of(const PgView& matrix, const PgGroup& group) {
  const auto& schedule = matrix.schedules[group.schedule];
  return {matrix.stream + group.stream_at, matrix.steps.data() + schedule.begin, schedule.steps,
          int64_t{group.vectors} * pg_shape(matrix.form()).bytes};
}

// Of two vectors; of one where there is no second, whose slots are then empty.
template <bool kIsWide, bool kIsHalf>
POMONA_AVX2 void add_floats(const PgInput& input, const Stream& stream, bool has_second,
                            const std::byte* book, float* sums) {
  alignas(64) static constexpr std::byte kEmpty[64]{};
  __m256 totals[4];
  for (auto& total : totals) total = _mm256_setzero_ps();
  const std::byte* bytes = stream.bytes;
  const PgOffsets* offsets = stream.offsets;
  const auto x_at = [&](uint32_t offset) { return input.planes + offset; };
  for (uint32_t s = 0; s < stream.steps; s += 3, offsets += 3, bytes += stream.stride) {
    const std::byte* second = has_second ? bytes + 64 : kEmpty;
    const Slots indices{indices_of(bytes), indices_of(second)};
    const Slots codes{codes_of(bytes), codes_of(second)};
    add_step<0, kIsWide, kIsHalf>(x_at(offsets[0].first), x_at(offsets[0].second), indices, codes,
                                  book, totals);
    add_step<1, kIsWide, kIsHalf>(x_at(offsets[1].first), x_at(offsets[1].second), indices, codes,
                                  book, totals);
    add_step<2, kIsWide, kIsHalf>(x_at(offsets[2].first), x_at(offsets[2].second), indices, codes,
                                  book, totals);
  }
  // In the order in which the joined planes have the lanes.
  alignas(32) std::array<float, 32> joined;
  for (size_t k = 0; k < 4; ++k) _mm256_storeu_ps(joined.data() + 8 * k, totals[k]);
  for (size_t lane = 0; lane < (has_second ? 32 : 16); ++lane) {
    const size_t vector = lane / 16, upper = lane / 8 % 2, within = lane % 8;
    sums[lane] = joined[8 * (within % 4) + 4 * (within / 4) + 2 * upper + vector];
  }
}

template <bool kIsWide, bool kIsHalf>
POMONA_AVX2 void add_floats(const PgView& matrix, const PgInput& input, const PgGroup& group,
                            float* sums) {
  alignas(64) std::array<std::byte, 128> book;
  const auto* values = reinterpret_cast<const std::byte*>(matrix.codebook->values);
  split_planes(values, book.data());
  split_planes(values + 64, book.data() + 64);
  Stream stream = stream_of(matrix, group);
  for (uint32_t v = 0; v < group.vectors; v += 2, stream.bytes += 128) {
    add_floats<kIsWide, kIsHalf>(input, stream, v + 1 < group.vectors, book.data(), sums + 16 * v);
  }
}

// The slots of eight lanes in one of the two steps that stand together. kStep says which half of
// the nibbles; kIsWide: more than 16 codes, the fifth bit of which is bit 7 of the index.
template <int kStep, bool kIsWide>
struct ByteSlots {
  __m256i slot, index, code;

  POMONA_AVX2 POMONA_INLINE explicit ByteSlots(const std::byte* bytes)
      : slot(load(bytes + 64 * kStep)), index(slot), code(load(bytes + 128)) {
    if (kIsWide) index = _mm256_and_si256(slot, _mm256_set1_epi8(127));
    if (kStep == 1) code = _mm256_srli_epi16(code, 4);
    code = _mm256_and_si256(code, _mm256_set1_epi8(15));
  }
  POMONA_AVX2 POMONA_INLINE __m256i weights(const int8_t* values) const {
    const __m256i low = _mm256_shuffle_epi8(table_at(values), code);
    if (!kIsWide) return low;
    return _mm256_blendv_epi8(low, _mm256_shuffle_epi8(table_at(values + 16), code), slot);
  }
};

// The sums of eight lanes in bytes. vpmaddubsw takes one operand without a sign, |x| <= 128; two of
// its products with codes of |w| <= 127 stay below 2^15, where it would saturate.
struct Int8Sums {
  __m256i total;

  POMONA_AVX2 POMONA_INLINE void clear() { total = _mm256_setzero_si256(); }
  template <class Slots>
  POMONA_AVX2 POMONA_INLINE void add(const Slots& slots, const std::byte* first,
                                     const std::byte* second, int64_t, const PgCodebook& book) {
    const __m256i x = entries_of_128(first, second, slots.index);
    const __m256i w = slots.weights(book.byte_high);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
    total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  POMONA_AVX2 std::array<int64_t, 8> of_lanes() const {
    alignas(32) std::array<int32_t, 8> lanes;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes.data()), total);
    return {lanes[0], lanes[1], lanes[2], lanes[3], lanes[4], lanes[5], lanes[6], lanes[7]};
  }
};

// In 16 bits. A sum of two products fits a word; the halves of such words are added up apart. Of
// the two lanes in a quarter of a register, [0] has the first and [1] the second.
struct Fixed16Sums {
  __m256i high[2], low[2];

  POMONA_AVX2 POMONA_INLINE void clear() {
    high[0] = high[1] = low[0] = low[1] = _mm256_setzero_si256();
  }
  template <class Slots>
  POMONA_AVX2 POMONA_INLINE void add(const Slots& slots, const std::byte* first,
                                     const std::byte* second, int64_t low_at,
                                     const PgCodebook& book) {
    const __m256i x = entries_of_128(first, second, slots.index);
    const __m256i low_x = entries_of_128(first + low_at, second + low_at, slots.index);
    const __m256i w = slots.weights(book.byte_high), low_w = slots.weights(book.byte_low);
    add_pairs(0, _mm256_madd_epi16(_mm256_unpacklo_epi8(low_x, x), _mm256_unpacklo_epi8(low_w, w)));
    add_pairs(1, _mm256_madd_epi16(_mm256_unpackhi_epi8(low_x, x), _mm256_unpackhi_epi8(low_w, w)));
  }
  POMONA_AVX2 POMONA_INLINE void add_pairs(int of, __m256i pairs) {
    high[of] = _mm256_add_epi32(high[of], _mm256_srai_epi32(pairs, 16));
    low[of] = _mm256_add_epi32(low[of], _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff)));
  }
  POMONA_AVX2 std::array<int64_t, 8> of_lanes() const {
    std::array<int64_t, 8> lanes;
    alignas(32) std::array<int32_t, 8> highs, lows;
    for (size_t of = 0; of < 2; ++of) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(highs.data()), high[of]);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(lows.data()), low[of]);
      for (size_t i = 0; i < 4; ++i) {
        lanes[i / 2 * 4 + 2 * of + i % 2] =
            65536 * (int64_t{highs[2 * i]} + highs[2 * i + 1]) + lows[2 * i] + lows[2 * i + 1];
      }
    }
    return lanes;
  }
};

// `book`: with bytes as Sums::add takes them.
template <class Sums, bool kIsWide>
POMONA_AVX2 void add_bytes(const PgView& matrix, const PgInput& input, const PgGroup& group,
                           const PgCodebook& book, float* sums) {
  const size_t halves = 2 * size_t{group.vectors};
  std::array<Sums, 8> totals;
  for (auto& total : totals) total.clear();
  auto [bytes, offsets, steps, stride] = stream_of(matrix, group);
  const int64_t low_at = matrix.plane_bytes();
  for (uint32_t s = 0; s < steps; s += 2, offsets += 2, bytes += stride) {
    for (size_t h = 0; h < halves; ++h) {
      const std::byte* slots = bytes + 192 * (h / 2) + 32 * (h % 2);
      totals[h].add(ByteSlots<0, kIsWide>(slots), input.planes + offsets[0].first,
                    input.planes + offsets[0].second, low_at, book);
      totals[h].add(ByteSlots<1, kIsWide>(slots), input.planes + offsets[1].first,
                    input.planes + offsets[1].second, low_at, book);
    }
  }
  const int32_t* weights = matrix.sums.data() + (&group - matrix.groups.data()) * kPgLanes;
  const double scale = static_cast<double>(input.units.scale) * static_cast<double>(book.scale);
  const int64_t offset = input.units.offset;
  for (size_t h = 0; h < halves; ++h, weights += 8, sums += 8) {
    const auto lanes = totals[h].of_lanes();
    for (size_t l = 0; l < 8; ++l) {
      sums[l] = static_cast<float>(static_cast<double>(lanes[l] - offset * weights[l]) * scale);
    }
  }
}

// The codes as 16-bit numbers: their low bytes count without a sign.
PgCodebook with_words(const PgCodebook& book) {
  PgCodebook words = book;
  for (size_t c = 0; c < 64; ++c) {
    words.byte_high[c] = static_cast<int8_t>(book.byte_high[c] - (book.byte_low[c] < 0 ? 1 : 0));
  }
  return words;
}

}  // namespace

// Eight loads: the instruction that gathers takes twice as long.
POMONA_AVX2 void add_level_avx2(const PgSpilled& level, const float* x, float* sums) {
  for (int l = 0; l < 16; l += 8) {
    const uint32_t* c = level.columns + l;
    const __m256 inputs =
        _mm256_setr_ps(x[c[0]], x[c[1]], x[c[2]], x[c[3]], x[c[4]], x[c[5]], x[c[6]], x[c[7]]);
    const __m256 sum = _mm256_loadu_ps(sums + l);
    _mm256_storeu_ps(sums + l, _mm256_fmadd_ps(_mm256_loadu_ps(level.values + l), inputs, sum));
  }
}

void multiply_group_avx2(const PgView& matrix, const PgInput& input, const PgGroup& group,
                         float* sums) {
  const auto& book = *matrix.codebook;
  const bool is_wide = book.codes > 16;
  if (matrix.form() == PackedForm::kFloat32) {
    return with_flags(
        [&](auto wide, auto half) { add_floats<wide(), half()>(matrix, input, group, sums); },
        is_wide, book.has_low == 0);
  }
  with_flags(
      [&](auto wide) {
        if (matrix.precision() == Precision::kInt8) {
          add_bytes<Int8Sums, wide()>(matrix, input, group, book, sums);
        } else {
          const auto words = with_words(book);
          add_bytes<Fixed16Sums, wide()>(matrix, input, group, words, sums);
        }
      },
      is_wide);
}

}  // namespace pomona

#endif
