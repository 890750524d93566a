#pragma once
// AVX2, FMA and what of SSE goes with them.

#include "lanes.h"

// 128 bits
inline __m128i _mm_loadu_si128(const __m128i* from) {
  __m128i v;
  std::memcpy(v.bytes.data(), from, sizeof v);
  return v;
}
inline void _mm_storeu_si128(__m128i* to, const __m128i& v) {
  std::memcpy(to, &v, sizeof v);
}
inline __m128i _mm_setr_epi8(char b0, char b1, char b2, char b3, char b4, char b5, char b6, char b7,
                             char b8, char b9, char b10, char b11, char b12, char b13, char b14,
                             char b15) {
  const std::array<char, 16> bytes{b0, b1, b2,  b3,  b4,  b5,  b6,  b7,
                                   b8, b9, b10, b11, b12, b13, b14, b15};
  return std::bit_cast<__m128i>(bytes);
}
inline __m128i _mm_shuffle_epi8(const __m128i& table, const __m128i& index) {
  using namespace pomona::isa_emulator;
  return integers<uint8_t, Bits128>([&](int i) {
    const auto at = get<uint8_t>(index, i);
    return at < 128 ? get<uint8_t>(table, at % 16) : uint8_t{0};
  });
}
inline __m128i _mm_unpacklo_epi8(const __m128i& a, const __m128i& b) {
  return pomona::isa_emulator::interleaved<uint8_t>(a, b, 0);
}
inline __m128i _mm_unpackhi_epi8(const __m128i& a, const __m128i& b) {
  return pomona::isa_emulator::interleaved<uint8_t>(a, b, 1);
}
inline __m128i _mm_unpacklo_epi16(const __m128i& a, const __m128i& b) {
  return pomona::isa_emulator::interleaved<uint16_t>(a, b, 0);
}
inline __m128i _mm_unpackhi_epi16(const __m128i& a, const __m128i& b) {
  return pomona::isa_emulator::interleaved<uint16_t>(a, b, 1);
}
inline __m128i _mm_unpacklo_epi32(const __m128i& a, const __m128i& b) {
  return pomona::isa_emulator::interleaved<uint32_t>(a, b, 0);
}
inline __m128i _mm_unpackhi_epi32(const __m128i& a, const __m128i& b) {
  return pomona::isa_emulator::interleaved<uint32_t>(a, b, 1);
}
inline __m128i _mm_unpacklo_epi64(const __m128i& a, const __m128i& b) {
  return pomona::isa_emulator::interleaved<uint64_t>(a, b, 0);
}
inline __m128i _mm_unpackhi_epi64(const __m128i& a, const __m128i& b) {
  return pomona::isa_emulator::interleaved<uint64_t>(a, b, 1);
}

// 256 bits
inline __m256 _mm256_setzero_ps() {
  return {};
}
inline __m256 _mm256_loadu_ps(const float* from) {
  __m256 v;
  std::memcpy(v.lanes.data(), from, sizeof v);
  return v;
}
inline __m256i _mm256_loadu_si256(const __m256i* from) {
  __m256i v;
  std::memcpy(v.bytes.data(), from, sizeof v);
  return v;
}
inline void _mm256_storeu_ps(float* to, const __m256& v) {
  std::memcpy(to, &v, sizeof v);
}
inline __m256 _mm256_castsi256_ps(const __m256i& v) {
  return std::bit_cast<__m256>(v);
}
inline __m256i _mm256_slli_epi32(const __m256i& v, int count) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t, Bits256>([&](int i) { return get<uint32_t>(v, i) << count; });
}
inline __m256i _mm256_srli_epi32(const __m256i& v, int count) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t, Bits256>([&](int i) { return get<uint32_t>(v, i) >> count; });
}
// The low three bits of an index.
inline __m256 _mm256_permutevar8x32_ps(const __m256& table, const __m256i& index) {
  using namespace pomona::isa_emulator;
  return floats<Floats256>(
      [&](int i) { return lane(table, static_cast<int>(get<uint32_t>(index, i) & 7)); });
}
// The second operand where the sign of the third is set.
inline __m256 _mm256_blendv_ps(const __m256& a, const __m256& b, const __m256& which) {
  using namespace pomona::isa_emulator;
  return floats<Floats256>(
      [&](int i) { return std::signbit(lane(which, i)) ? lane(b, i) : lane(a, i); });
}
inline __m256 _mm256_fmadd_ps(const __m256& a, const __m256& b, const __m256& c) {
  using namespace pomona::isa_emulator;
  return floats<Floats256>([&](int i) { return std::fma(lane(a, i), lane(b, i), lane(c, i)); });
}
inline __m256 _mm256_i32gather_ps(const float* from, const __m256i& index, int) {
  using namespace pomona::isa_emulator;
  return floats<Floats256>([&](int i) { return from[get<int32_t>(index, i)]; });
}
inline void _mm256_storeu_si256(__m256i* to, const __m256i& v) {
  std::memcpy(to, &v, sizeof v);
}
inline __m256i _mm256_setzero_si256() {
  return {};
}
inline __m256i _mm256_set1_epi8(char x) {
  using namespace pomona::isa_emulator;
  return integers<char, Bits256>([&](int) { return x; });
}
inline __m256i _mm256_set1_epi16(int16_t x) {
  using namespace pomona::isa_emulator;
  return integers<int16_t, Bits256>([&](int) { return x; });
}
inline __m256i _mm256_set1_epi32(int x) {
  using namespace pomona::isa_emulator;
  return integers<int32_t, Bits256>([&](int) { return x; });
}
inline __m256i _mm256_and_si256(const __m256i& a, const __m256i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t, Bits256>(
      [&](int i) { return get<uint32_t>(a, i) & get<uint32_t>(b, i); });
}
inline __m256i _mm256_or_si256(const __m256i& a, const __m256i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t, Bits256>(
      [&](int i) { return get<uint32_t>(a, i) | get<uint32_t>(b, i); });
}
inline __m256i _mm256_xor_si256(const __m256i& a, const __m256i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t, Bits256>(
      [&](int i) { return get<uint32_t>(a, i) ^ get<uint32_t>(b, i); });
}
inline __m256i _mm256_adds_epu8(const __m256i& a, const __m256i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint8_t, Bits256>([&](int i) {
    return static_cast<uint8_t>(std::min(255, get<uint8_t>(a, i) + get<uint8_t>(b, i)));
  });
}
inline __m256i _mm256_slli_epi16(const __m256i& v, int count) {
  using namespace pomona::isa_emulator;
  return integers<uint16_t, Bits256>(
      [&](int i) { return static_cast<uint16_t>(get<uint16_t>(v, i) << count); });
}
inline __m256i _mm256_srli_epi16(const __m256i& v, int count) {
  using namespace pomona::isa_emulator;
  return integers<uint16_t, Bits256>(
      [&](int i) { return static_cast<uint16_t>(get<uint16_t>(v, i) >> count); });
}
inline __m256i _mm256_srai_epi16(const __m256i& v, int count) {
  using namespace pomona::isa_emulator;
  return integers<int16_t, Bits256>(
      [&](int i) { return static_cast<int16_t>(get<int16_t>(v, i) >> count); });
}
inline __m256i _mm256_add_epi32(const __m256i& a, const __m256i& b) {
  using namespace pomona::isa_emulator;
  return integers<int32_t, Bits256>([&](int i) { return get<int32_t>(a, i) + get<int32_t>(b, i); });
}
inline __m256i _mm256_madd_epi16(const __m256i& a, const __m256i& b) {
  using namespace pomona::isa_emulator;
  return integers<int32_t, Bits256>([&](int i) {
    return get<int16_t>(a, 2 * i) * get<int16_t>(b, 2 * i) +
           get<int16_t>(a, 2 * i + 1) * get<int16_t>(b, 2 * i + 1);
  });
}
// Within each 16 bytes; zero where the index has its eighth bit.
inline __m256i _mm256_shuffle_epi8(const __m256i& table, const __m256i& index) {
  using namespace pomona::isa_emulator;
  return integers<uint8_t, Bits256>([&](int i) {
    const auto at = get<uint8_t>(index, i);
    return at < 128 ? get<uint8_t>(table, i / 16 * 16 + at % 16) : uint8_t{0};
  });
}
inline __m256i _mm256_broadcastsi128_si256(const __m128i& v) {
  using namespace pomona::isa_emulator;
  return integers<uint8_t, Bits256>([&](int i) { return get<uint8_t>(v, i % 16); });
}
// The second operand where the sign of the third's byte is set.
inline __m256i _mm256_blendv_epi8(const __m256i& a, const __m256i& b, const __m256i& which) {
  using namespace pomona::isa_emulator;
  return integers<uint8_t, Bits256>(
      [&](int i) { return get<uint8_t>(get<int8_t>(which, i) < 0 ? b : a, i); });
}
// Half-word i of the second operand where bit i % 8 is set.
inline __m256i _mm256_blend_epi16(const __m256i& a, const __m256i& b, int which) {
  using namespace pomona::isa_emulator;
  return integers<uint16_t, Bits256>(
      [&](int i) { return get<uint16_t>((which >> i % 8 & 1) != 0 ? b : a, i); });
}
inline __m256i _mm256_unpacklo_epi8(const __m256i& a, const __m256i& b) {
  return pomona::isa_emulator::interleaved<uint8_t>(a, b, 0);
}
inline __m256i _mm256_unpackhi_epi8(const __m256i& a, const __m256i& b) {
  return pomona::isa_emulator::interleaved<uint8_t>(a, b, 1);
}
inline __m256i _mm256_unpacklo_epi16(const __m256i& a, const __m256i& b) {
  return pomona::isa_emulator::interleaved<uint16_t>(a, b, 0);
}
inline __m256i _mm256_unpackhi_epi16(const __m256i& a, const __m256i& b) {
  return pomona::isa_emulator::interleaved<uint16_t>(a, b, 1);
}
// The low three bits of an index.
inline __m256i _mm256_permutevar8x32_epi32(const __m256i& table, const __m256i& index) {
  using namespace pomona::isa_emulator;
  return integers<uint32_t, Bits256>(
      [&](int i) { return get<uint32_t>(table, static_cast<int>(get<uint32_t>(index, i) & 7)); });
}
template <class... Bytes>
__m256i _mm256_setr_epi8(Bytes... bytes) {
  static_assert(sizeof...(bytes) == 32);
  return std::bit_cast<__m256i>(std::array<char, 32>{static_cast<char>(bytes)...});
}
inline __m256i _mm256_setr_epi32(int w0, int w1, int w2, int w3, int w4, int w5, int w6, int w7) {
  return std::bit_cast<__m256i>(std::array<int, 8>{w0, w1, w2, w3, w4, w5, w6, w7});
}
inline __m256i _mm256_add_epi8(const __m256i& a, const __m256i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint8_t, Bits256>(
      [&](int i) { return static_cast<uint8_t>(get<uint8_t>(a, i) + get<uint8_t>(b, i)); });
}
inline __m256i _mm256_srai_epi32(const __m256i& v, int count) {
  using namespace pomona::isa_emulator;
  return integers<int32_t, Bits256>([&](int i) { return get<int32_t>(v, i) >> count; });
}
inline __m256i _mm256_max_epi32(const __m256i& a, const __m256i& b) {
  using namespace pomona::isa_emulator;
  return integers<int32_t, Bits256>(
      [&](int i) { return std::max(get<int32_t>(a, i), get<int32_t>(b, i)); });
}
// -128 stays as it is: 128 without a sign.
inline __m256i _mm256_abs_epi8(const __m256i& v) {
  using namespace pomona::isa_emulator;
  return integers<uint8_t, Bits256>(
      [&](int i) { return static_cast<uint8_t>(std::abs(get<int8_t>(v, i))); });
}
// a, -a (which -128 has not) or 0, by the sign of b.
inline __m256i _mm256_sign_epi8(const __m256i& a, const __m256i& b) {
  using namespace pomona::isa_emulator;
  return integers<int8_t, Bits256>([&](int i) {
    const int sign = (get<int8_t>(b, i) > 0) - (get<int8_t>(b, i) < 0);
    return static_cast<int8_t>(sign * get<int8_t>(a, i));
  });
}
// Bytes without a sign times bytes with one, in pairs, saturated.
inline __m256i _mm256_maddubs_epi16(const __m256i& a, const __m256i& b) {
  using namespace pomona::isa_emulator;
  return integers<int16_t, Bits256>([&](int i) {
    const auto product = [&](int j) { return int{get<uint8_t>(a, j)} * get<int8_t>(b, j); };
    return static_cast<int16_t>(std::clamp(product(2 * i) + product(2 * i + 1), -32768, 32767));
  });
}
// Saturated to the lanes of half the width, those of a and b by turns of 128 bits.
inline __m256i _mm256_packus_epi16(const __m256i& a, const __m256i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint8_t, Bits256>([&](int i) {
    const int lane = get<int16_t>(i % 16 < 8 ? a : b, i / 16 * 8 + i % 8);
    return static_cast<uint8_t>(std::clamp(lane, 0, 255));
  });
}
inline __m256i _mm256_packus_epi32(const __m256i& a, const __m256i& b) {
  using namespace pomona::isa_emulator;
  return integers<uint16_t, Bits256>([&](int i) {
    const int lane = get<int32_t>(i % 8 < 4 ? a : b, i / 8 * 4 + i % 4);
    return static_cast<uint16_t>(std::clamp(lane, 0, 65535));
  });
}
inline __m256i _mm256_castps_si256(const __m256& v) {
  return std::bit_cast<__m256i>(v);
}
inline __m256 _mm256_set1_ps(float x) {
  using namespace pomona::isa_emulator;
  return floats<Floats256>([&](int) { return x; });
}
inline __m256 _mm256_setr_ps(float f0, float f1, float f2, float f3, float f4, float f5, float f6,
                             float f7) {
  return {{f0, f1, f2, f3, f4, f5, f6, f7}};
}
inline __m256 _mm256_mul_ps(const __m256& a, const __m256& b) {
  using namespace pomona::isa_emulator;
  return floats<Floats256>([&](int i) { return lane(a, i) * lane(b, i); });
}
// The second operand where either is NaN.
inline __m256 _mm256_min_ps(const __m256& a, const __m256& b) {
  using namespace pomona::isa_emulator;
  return floats<Floats256>(
      [&](int i) { return lane(a, i) < lane(b, i) ? lane(a, i) : lane(b, i); });
}
inline __m256 _mm256_max_ps(const __m256& a, const __m256& b) {
  using namespace pomona::isa_emulator;
  return floats<Floats256>(
      [&](int i) { return lane(a, i) > lane(b, i) ? lane(a, i) : lane(b, i); });
}
// To the nearest, of two the even.
inline __m256i _mm256_cvtps_epi32(const __m256& v) {
  using namespace pomona::isa_emulator;
  return integers<int32_t, Bits256>(
      [&](int i) { return static_cast<int32_t>(std::lrint(lane(v, i))); });
}
