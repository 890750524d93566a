#pragma once
// float16 (IEEE 754 binary16) and bfloat16 as bit patterns. Widening is exact, NaN payloads
// included; narrowing rounds to nearest, ties to even, and keeps a NaN a NaN.
//
//   float16   sign 1 | exponent 5, bias 15  | fraction 10
//   bfloat16  sign 1 | exponent 8, bias 127 | fraction 7     the upper half of a float
//   float     sign 1 | exponent 8, bias 127 | fraction 23

#include <bit>
#include <cstdint>

namespace pomona {

inline float float_from_bfloat16(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

inline uint16_t bfloat16_from_float(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) {  // NaN: never round its payload up to infinity or away
    const auto upper = static_cast<uint16_t>(bits >> 16);
    return (upper & 0x7f) != 0 ? upper : static_cast<uint16_t>(upper | 0x40);
  }
  const uint32_t half_less_tie = 0x7fff + ((bits >> 16) & 1);
  return static_cast<uint16_t>((bits + half_less_tie) >> 16);
}

inline float float_from_float16(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  uint32_t fraction = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000 | (fraction << 13));
  if (exponent != 0) {
    return std::bit_cast<float>(sign | ((exponent + 127 - 15) << 23) | (fraction << 13));
  }
  if (fraction == 0) return std::bit_cast<float>(sign);
  // Subnormal: fraction * 2^-24; shift its leading one to where a float's hidden one stands.
  const auto shift = static_cast<uint32_t>(std::countl_zero(fraction)) - 21;
  fraction = (fraction << shift) & 0x3ff;
  return std::bit_cast<float>(sign | ((113 - shift) << 23) | (fraction << 13));
}

namespace detail {

// (value >> shift) rounded to nearest, ties to even. REQUIRES: 1 <= shift <= 31.
inline uint32_t shift_right_to_nearest(uint32_t value, uint32_t shift) {
  const uint32_t half_less_tie = (uint32_t{1} << (shift - 1)) - 1 + ((value >> shift) & 1);
  return (value + half_less_tie) >> shift;
}

}  // namespace detail

inline uint16_t float16_from_float(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) {
    const uint32_t payload = (magnitude >> 13) & 0x3ff;
    return static_cast<uint16_t>(sign | 0x7c00 | (payload != 0 ? payload : 0x200));
  }
  constexpr uint32_t kLeastInfinite =
      0x477ff000;                                 // 65520, halfway from the largest float16 to 2^16
  constexpr uint32_t kLeastNormal = 0x38800000;   // 2^-14
  constexpr uint32_t kLeastNotZero = 0x33000000;  // 2^-25, which rounds to 0
  if (magnitude >= kLeastInfinite) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude >= kLeastNormal) {
    const uint32_t rebiased = magnitude - ((127u - 15u) << 23);
    return static_cast<uint16_t>(sign | detail::shift_right_to_nearest(rebiased, 13));
  }
  if (magnitude <= kLeastNotZero) return static_cast<uint16_t>(sign);
  const uint32_t exponent = magnitude >> 23;  // 102..112: value = fraction * 2^(exponent - 150)
  const uint32_t fraction = (magnitude & 0x7fffff) | 0x800000;
  return static_cast<uint16_t>(sign | detail::shift_right_to_nearest(fraction, 126 - exponent));
}

}  // namespace pomona
