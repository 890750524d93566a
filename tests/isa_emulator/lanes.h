#pragma once
// Registers as lanes, and how the stand-ins for instructions get at them.

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace pomona::isa_emulator {

struct Bits128 {
  std::array<uint8_t, 16> bytes{};
};
struct Bits256 {
  std::array<uint8_t, 32> bytes{};
};
struct Bits512 {
  std::array<uint8_t, 64> bytes{};
};
struct Floats256 {
  std::array<float, 8> lanes{};
};
struct Floats512 {
  std::array<float, 16> lanes{};
};

template <class Lane, class Bits>
constexpr int lanes_of() {
  return static_cast<int>(sizeof(Bits) / sizeof(Lane));
}
template <class Lane, class Bits>
Lane get(const Bits& bits, int i) {
  Lane lane;
  std::memcpy(&lane, bits.bytes.data() + static_cast<size_t>(i) * sizeof(Lane), sizeof(Lane));
  return lane;
}
template <class Lane, class Bits>
void put(Bits& bits, int i, Lane lane) {
  std::memcpy(bits.bytes.data() + static_cast<size_t>(i) * sizeof(Lane), &lane, sizeof(Lane));
}
// Each lane of the result is one(i).
template <class Lane, class Bits = Bits512, class One>
Bits integers(const One& one) {
  Bits result;
  for (int i = 0; i < lanes_of<Lane, Bits>(); ++i) put<Lane>(result, i, static_cast<Lane>(one(i)));
  return result;
}
template <class Floats = Floats512, class One>
Floats floats(const One& one) {
  Floats result;
  for (size_t i = 0; i < result.lanes.size(); ++i) result.lanes[i] = one(static_cast<int>(i));
  return result;
}
template <class Floats>
float lane(const Floats& v, int i) {
  return v.lanes[static_cast<size_t>(i)];
}
inline float widened(uint16_t half) {
  return std::bit_cast<float>(uint32_t{half} << 16);
}
inline void check_aligned(const void* address) {
  if (std::bit_cast<uintptr_t>(address) % 64 != 0) std::abort();
}
// Round to nearest even; denormals are taken as zero, as the instruction does.
inline uint16_t narrowed(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7f800000) == 0) return static_cast<uint16_t>(bits >> 16 & 0x8000);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float flushed(float value) {
  return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
}
template <class Lane, class Merge>
Lane reduced(const Bits512& v, Merge merge) {
  Lane result = get<Lane>(v, 0);
  for (int i = 1; i < lanes_of<Lane, Bits512>(); ++i) result = merge(result, get<Lane>(v, i));
  return result;
}
// Of every 128 bits of a and b, the lanes of the first half (or of the second), by turns.
template <class Lane, class Bits>
Bits interleaved(const Bits& a, const Bits& b, int half) {
  constexpr int kLanes = 16 / static_cast<int>(sizeof(Lane));
  return integers<Lane, Bits>([&](int i) {
    return get<Lane>(i % 2 == 0 ? a : b, i / kLanes * kLanes + half * kLanes / 2 + i % kLanes / 2);
  });
}

}  // namespace pomona::isa_emulator

using __m128i = pomona::isa_emulator::Bits128;
using __m256i = pomona::isa_emulator::Bits256;
using __m256 = pomona::isa_emulator::Floats256;
using __m512i = pomona::isa_emulator::Bits512;
using __m512bh = pomona::isa_emulator::Bits512;
using __m512 = pomona::isa_emulator::Floats512;
using __mmask16 = uint16_t;
using __mmask32 = uint32_t;
using __mmask64 = uint64_t;
