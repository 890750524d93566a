#pragma once
// AVX-512 F, BW, VL, DQ, VBMI, VNNI and BF16.

#include "lanes.h"

#define _MM_HINT_T0 0
inline void _mm_prefetch(const char*, int) {}

// Moves
inline __m512 _mm512_setzero_ps() {
  return {};
}
inline __m512i _mm512_setzero_si512() {
  return {};
}
inline __m512 _mm512_set1_ps(float x) {
  return pomona::isa_emulator::floats([&](int) { return x; });
}
inline __m512i _mm512_set1_epi32(int x) {
  return pomona::isa_emulator::integers<int32_t>([&](int) { return x; });
}
inline __m512i _mm512_set1_epi8(char x) {
  return pomona::isa_emulator::integers<int8_t>([&](int) { return x; });
}
inline __m512i _mm512_loadu_si512(const void* from) {
  __m512i v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline __m512 _mm512_loadu_ps(const void* from) {
  __m512 v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* from) {
  return pomona::isa_emulator::floats([&](int i) {
    float x = 0;
    if (mask >> i & 1) std::memcpy(&x, static_cast<const float*>(from) + i, sizeof x);
    return x;
  });
}
inline void _mm512_storeu_si512(void* to, const __m512i& v) {
  std::memcpy(to, &v, sizeof v);
}
inline void _mm512_storeu_ps(void* to, const __m512& v) {
  std::memcpy(to, &v, sizeof v);
}
// Those that fault unless aligned.
inline __m512i _mm512_load_si512(const void* from) {
  pomona::isa_emulator::check_aligned(from);
  return _mm512_loadu_si512(from);
}
inline void _mm512_store_ps(void* to, const __m512& v) {
  pomona::isa_emulator::check_aligned(to);
  _mm512_storeu_ps(to, v);
}
inline __m512i _mm512_castps_si512(const __m512& v) {
  return std::bit_cast<__m512i>(v);
}
inline __m512 _mm512_castsi512_ps(const __m512i& v) {
  return std::bit_cast<__m512>(v);
}
inline __m256i _mm512_extracti64x4_epi64(const __m512i& v, int half) {
  __m256i result;
  std::memcpy(&result, v.bytes.data() + 32 * half, sizeof result);
  return result;
}
inline __m256i _mm512_castsi512_si256(const __m512i& v) {
  return _mm512_extracti64x4_epi64(v, 0);
}

// Arithmetic of floats
inline __m512 _mm512_add_ps(const __m512& a, const __m512& b) {
  using namespace pomona::isa_emulator;
  return floats([&](int i) { return lane(a, i) + lane(b, i); });
}
inline __m512 _mm512_sub_ps(const __m512& a, const __m512& b) {
  using namespace pomona::isa_emulator;
  return floats([&](int i) { return lane(a, i) - lane(b, i); });
}
inline __m512 _mm512_mul_ps(const __m512& a, const __m512& b) {
  using namespace pomona::isa_emulator;
  return floats([&](int i) { return lane(a, i) * lane(b, i); });
}
inline __m512 _mm512_fmadd_ps(const __m512& a, const __m512& b, const __m512& c) {
  using namespace pomona::isa_emulator;
  return floats([&](int i) { return std::fma(lane(a, i), lane(b, i), lane(c, i)); });
}
// The second operand where they are equal or one is no number.
inline __m512 _mm512_min_ps(const __m512& a, const __m512& b) {
  using namespace pomona::isa_emulator;
  return floats([&](int i) { return lane(a, i) < lane(b, i) ? lane(a, i) : lane(b, i); });
}
inline __m512 _mm512_max_ps(const __m512& a, const __m512& b) {
  using namespace pomona::isa_emulator;
  return floats([&](int i) { return lane(a, i) > lane(b, i) ? lane(a, i) : lane(b, i); });
}
inline float _mm512_reduce_min_ps(const __m512& v) {
  return *std::ranges::min_element(v.lanes);
}
inline float _mm512_reduce_max_ps(const __m512& v) {
  return *std::ranges::max_element(v.lanes);
}
// To the nearest, ties to even.
inline __m512i _mm512_cvtps_epi32(const __m512& v) {
  using namespace pomona::isa_emulator;
  return integers<int32_t>([&](int i) { return static_cast<int32_t>(std::lrint(lane(v, i))); });
}

// Arithmetic of integers
inline __m512i _mm512_add_epi32(const __m512i& a, const __m512i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t>([&](int i) { return get<uint32_t>(a, i) + get<uint32_t>(b, i); });
}
inline __m512i _mm512_sub_epi32(const __m512i& a, const __m512i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t>([&](int i) { return get<uint32_t>(a, i) - get<uint32_t>(b, i); });
}
inline __m512i _mm512_and_si512(const __m512i& a, const __m512i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint64_t>([&](int i) { return get<uint64_t>(a, i) & get<uint64_t>(b, i); });
}
inline __m512i _mm512_min_epu32(const __m512i& a, const __m512i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t>(
      [&](int i) { return std::min(get<uint32_t>(a, i), get<uint32_t>(b, i)); });
}
inline __m512i _mm512_max_epu32(const __m512i& a, const __m512i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t>(
      [&](int i) { return std::max(get<uint32_t>(a, i), get<uint32_t>(b, i)); });
}
inline uint32_t _mm512_reduce_min_epu32(const __m512i& v) {
  return pomona::isa_emulator::reduced<uint32_t>(
      v, [](uint32_t a, uint32_t b) { return std::min(a, b); });
}
inline uint32_t _mm512_reduce_max_epu32(const __m512i& v) {
  return pomona::isa_emulator::reduced<uint32_t>(
      v, [](uint32_t a, uint32_t b) { return std::max(a, b); });
}
inline __m512i _mm512_slli_epi32(const __m512i& v, unsigned count) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t>([&](int i) { return get<uint32_t>(v, i) << count; });
}
inline __m512i _mm512_srli_epi32(const __m512i& v, unsigned count) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t>([&](int i) { return get<uint32_t>(v, i) >> count; });
}
inline __m512i _mm512_srli_epi16(const __m512i& v, unsigned count) {
  using namespace pomona::isa_emulator;
  return integers<uint16_t>([&](int i) { return get<uint16_t>(v, i) >> count; });
}
// Bit by bit, the bit of `table` at the number (a, b, c).
inline __m512i _mm512_ternarylogic_epi32(const __m512i& a, const __m512i& b, const __m512i& c,
                                         int table) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t>([&](int i) {
    uint32_t result = 0;
    for (int bit = 0; bit < 32; ++bit) {
      const auto of = [&](const __m512i& v) { return get<uint32_t>(v, i) >> bit & 1; };
      const uint32_t at = of(a) << 2 | of(b) << 1 | of(c);
      result |= (static_cast<uint32_t>(table) >> at & 1) << bit;
    }
    return result;
  });
}
inline __m512i _mm512_cvtepu16_epi32(const __m256i& v) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t>([&](int i) { return get<uint16_t>(v, i); });
}
inline __m128i _mm512_cvtepi32_epi8(const __m512i& v) {
  using namespace pomona::isa_emulator;
  __m128i result;
  for (int i = 0; i < 16; ++i) put<uint8_t>(result, i, static_cast<uint8_t>(get<uint32_t>(v, i)));
  return result;
}

// Unpacks take from each 128-bit quarter; shuffles move quarters.
inline __m512i _mm512_unpacklo_epi32(const __m512i& a, const __m512i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t>(
      [&](int i) { return get<uint32_t>(i % 2 == 0 ? a : b, i / 4 * 4 + i % 4 / 2); });
}
inline __m512i _mm512_unpackhi_epi32(const __m512i& a, const __m512i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t>(
      [&](int i) { return get<uint32_t>(i % 2 == 0 ? a : b, i / 4 * 4 + 2 + i % 4 / 2); });
}
inline __m512i _mm512_unpacklo_epi64(const __m512i& a, const __m512i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint64_t>([&](int i) { return get<uint64_t>(i % 2 == 0 ? a : b, i / 2 * 2); });
}
inline __m512i _mm512_unpackhi_epi64(const __m512i& a, const __m512i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint64_t>(
      [&](int i) { return get<uint64_t>(i % 2 == 0 ? a : b, i / 2 * 2 + 1); });
}
inline __m512i _mm512_shuffle_i32x4(const __m512i& a, const __m512i& b, int which) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t>([&](int i) {
    const int quarter = i / 4, from = which >> (2 * quarter) & 3;
    return get<uint32_t>(quarter < 2 ? a : b, 4 * from + i % 4);
  });
}

// Permutes look at the low bits of an index, the highest of which chooses the table.
inline __m512 _mm512_permutex2var_ps(const __m512& a, const __m512i& index, const __m512& b) {
  using namespace pomona::isa_emulator;
  return floats([&](int i) {
    const uint32_t at = get<uint32_t>(index, i);
    return lane((at & 16) != 0 ? b : a, static_cast<int>(at & 15));
  });
}
inline __m512 _mm512_permutexvar_ps(const __m512i& index, const __m512& table) {
  using namespace pomona::isa_emulator;
  return floats([&](int i) { return lane(table, static_cast<int>(get<uint32_t>(index, i) & 15)); });
}
inline __m512i _mm512_permutex2var_epi16(const __m512i& a, const __m512i& index, const __m512i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint16_t>([&](int i) {
    const uint16_t at = get<uint16_t>(index, i);
    return get<uint16_t>((at & 32) != 0 ? b : a, at & 31);
  });
}
inline __m512i _mm512_permutex2var_epi8(const __m512i& a, const __m512i& index, const __m512i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint8_t>([&](int i) {
    const uint8_t at = get<uint8_t>(index, i);
    return get<uint8_t>((at & 64) != 0 ? b : a, at & 63);
  });
}
inline __m512i _mm512_permutexvar_epi16(const __m512i& index, const __m512i& table) {
  using namespace pomona::isa_emulator;
  return integers<uint16_t>(
      [&](int i) { return get<uint16_t>(table, get<uint16_t>(index, i) & 31); });
}
inline __m512i _mm512_maskz_permutexvar_epi16(__mmask32 mask, const __m512i& index,
                                              const __m512i& table) {
  using namespace pomona::isa_emulator;
  return integers<uint16_t>([&](int i) {
    return (mask >> i & 1) != 0 ? get<uint16_t>(table, get<uint16_t>(index, i) & 31) : 0;
  });
}
inline __m512i _mm512_permutexvar_epi8(const __m512i& index, const __m512i& table) {
  using namespace pomona::isa_emulator;
  return integers<uint8_t>([&](int i) { return get<uint8_t>(table, get<uint8_t>(index, i) & 63); });
}
inline __mmask64 _mm512_movepi8_mask(const __m512i& v) {
  using namespace pomona::isa_emulator;
  __mmask64 mask = 0;
  for (int i = 0; i < 64; ++i) mask |= __mmask64{get<int8_t>(v, i) < 0} << i;
  return mask;
}
// The second operand where the mask is set.
inline __m512i _mm512_mask_blend_epi8(__mmask64 mask, const __m512i& a, const __m512i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint8_t>(
      [&](int i) { return (mask >> i & 1) != 0 ? get<uint8_t>(b, i) : get<uint8_t>(a, i); });
}
inline __m512 _mm512_i32gather_ps(const __m512i& index, const float* from, int) {
  using namespace pomona::isa_emulator;
  return floats([&](int i) { return from[get<int32_t>(index, i)]; });
}

// Four products of an unsigned and a signed byte, added to a word.
inline __m512i _mm512_dpbusd_epi32(const __m512i& sum, const __m512i& a, const __m512i& b) {
  using namespace pomona::isa_emulator;
  return integers<int32_t>([&](int i) {
    int32_t total = get<int32_t>(sum, i);
    for (int j = 0; j < 4; ++j) {
      total += int32_t{get<uint8_t>(a, 4 * i + j)} * int32_t{get<int8_t>(b, 4 * i + j)};
    }
    return total;
  });
}

// bfloat16: `b` has the low halves of the result.
inline __m512bh _mm512_cvtne2ps_pbh(const __m512& a, const __m512& b) {
  using namespace pomona::isa_emulator;
  return integers<uint16_t>([&](int i) { return narrowed(lane(i < 16 ? b : a, i % 16)); });
}
// Two products added to a float, the odd one first; denormals are zero going in and coming out.
inline __m512 _mm512_dpbf16_ps(const __m512& sum, const __m512bh& a, const __m512bh& b) {
  using namespace pomona::isa_emulator;
  return floats([&](int i) {
    const auto of = [&](const __m512bh& v, int j) { return flushed(widened(get<uint16_t>(v, j))); };
    float total = flushed(lane(sum, i));
    total = flushed(std::fma(of(a, 2 * i + 1), of(b, 2 * i + 1), total));
    return flushed(std::fma(of(a, 2 * i), of(b, 2 * i), total));
  });
}
