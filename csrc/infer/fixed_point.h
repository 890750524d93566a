#pragma once
// Numbers in 8 or 16 bits with one scale each: x without a sign, a codebook with one. What the
// layouts share that compute in bytes.
//
// Source: thesis §6.3 (16-bit fixed point); docs/kernels.md.

#include "pomona/packed.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace pomona {

// What one pass over x finds: the ends of what it holds and 0.
struct XRange {
  float low = 0, high = 0;
  bool is_finite = true;
};

// x is about scale * (whole - offset), whole in 0..255 (kInt8) or 0..65535 (kFixed16).
struct UnsignedScale {
  float scale = 1;
  int32_t offset = 0;
};

// For everything from low to high. Where nothing is negative the offset is 0.
// REQUIRES: low <= 0 <= high, both finite.
inline UnsignedScale unsigned_scale(Precision precision, float low, float high) {
  const int32_t levels = precision == Precision::kFixed16 ? 65'536 : 256;
  const auto most = static_cast<float>(low < 0 ? levels / 2 - 1 : levels - 1);
  const float largest = std::max(high, -low);
  float scale = largest > 0 ? largest / most : 1;
  // A scale so small that its reciprocal is infinite: x is as good as 0.
  if (!std::isfinite(1 / scale)) scale = std::numeric_limits<float>::min();
  return {scale, low < 0 ? levels / 2 : 0};
}

// A value is about scale * whole, |whole| at most 127 (kInt8) or 127 * 256 (kFixed16).
inline float signed_scale(Precision precision, float largest) {
  const float most = precision == Precision::kFixed16 ? 127 * 256 : 127;
  return largest > 0 ? std::max(largest / most, std::numeric_limits<float>::denorm_min()) : 1;
}

}  // namespace pomona
