#pragma once
// Pseudo-random numbers that are the same on every machine (std's distributions are not).

#include <cstdint>

namespace pomona {

// Bits that depend on all of the input's: the mixer of SplitMix64. Source: Steele, Lea, Flood,
// "Fast splittable pseudorandom number generators", 2014.
constexpr uint64_t mix_bits(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  return bits ^ (bits >> 31);
}
inline constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;  // what SplitMix64 counts by

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() { return mix_bits(state_ += kGolden); }
  // In [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_;
};

}  // namespace pomona
