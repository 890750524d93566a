#pragma once
// The arithmetic unit: codes to weights by the codebook, multiply, shift and add with saturation.
// Source: EIE §IV ("Arithmetic Unit"): b_x = b_x + S[v] a_j.

#include "pomona/eie.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace pomona::eie {

// floor(value 2^digits + 1/2) in this many bits; what is beyond them ends at the largest or
// smallest number, NaN at 0.
inline int32_t to_fixed(double value, int digits, int bits) {
  if (std::isnan(value)) return 0;
  const double most = std::ldexp(1.0, bits - 1) - 1;
  return static_cast<int32_t>(
      std::clamp(std::floor(std::ldexp(value, digits) + 0.5), -most - 1, most));
}

// The most digits behind the point with which `largest` fits; 0.0 fits with any.
inline int fraction_digits(double largest, int bits) {
  constexpr int kMost = 30;
  if (!(largest > 0)) return kMost;
  const double most = std::ldexp(1.0, bits - 1) - 1;
  int digits = kMost;
  while (std::floor(std::ldexp(largest, digits) + 0.5) > most) --digits;
  return digits;
}

class FixedArithmetic {
 public:
  using Value = int32_t;
  using Product = int64_t;
  static constexpr bool kIsFixed = true;

  FixedArithmetic(std::span<const float> codebook, const Format& format, int bits)
      : bits_(bits),
        format_(format),
        shift_(format.weight + format.input - format.output),
        half_(shift_ > 0 ? int64_t{1} << (shift_ - 1) : 0),
        most_(static_cast<int32_t>((int64_t{1} << (bits - 1)) - 1)) {
    for (const float weight : codebook) codebook_.push_back(to_fixed(weight, format.weight, bits));
  }

  Value input(float activation) const { return to_fixed(activation, format_.input, bits_); }
  Value bias(float value) const { return to_fixed(value, format_.output, bits_); }
  float output(Value value) const {
    return static_cast<float>(std::ldexp(static_cast<double>(value), -format_.output));
  }
  Value weight(uint8_t code) const { return codebook_[code]; }
  Product multiply(Value weight, Value activation) const { return int64_t{weight} * activation; }
  // Sets `is_saturated` when the sum does not fit.
  Value add(Value accumulator, Product product, bool& is_saturated) const {
    const int64_t sum = accumulator + ((product + half_) >> shift_);
    const int64_t kept = std::clamp<int64_t>(sum, -int64_t{most_} - 1, most_);
    is_saturated |= kept != sum;
    return static_cast<Value>(kept);
  }

 private:
  int bits_;
  Format format_;
  int shift_;
  int64_t half_;
  int32_t most_;
  std::vector<Value> codebook_;
};

// The oracle: float32, a rounding after each multiplication and each addition.
class FloatArithmetic {
 public:
  using Value = float;
  using Product = float;
  static constexpr bool kIsFixed = false;

  explicit FloatArithmetic(std::span<const float> codebook) : codebook_(codebook) {}
  Value input(float activation) const { return activation; }
  Value bias(float value) const { return value; }
  float output(Value value) const { return value; }
  Value weight(uint8_t code) const { return codebook_[code]; }
  Product multiply(Value weight, Value activation) const { return weight * activation; }
  Value add(Value accumulator, Product product, bool&) const { return accumulator + product; }

 private:
  std::span<const float> codebook_;
};

}  // namespace pomona::eie
