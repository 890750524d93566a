#pragma once
// The dtypes of files and of tensors.

#include "pomona/weight.h"

#include <c10/core/ScalarType.h>

#include <array>
#include <optional>
#include <utility>

namespace pomona {

inline constexpr std::array<std::pair<DType, at::ScalarType>, kDTypeCount> kDTypes{{
    {DType::kFloat32, at::kFloat},
    {DType::kFloat16, at::kHalf},
    {DType::kBFloat16, at::kBFloat16},
    {DType::kFloat64, at::kDouble},
    {DType::kUInt8, at::kByte},
    {DType::kInt8, at::kChar},
    {DType::kInt16, at::kShort},
    {DType::kInt32, at::kInt},
    {DType::kInt64, at::kLong},
    {DType::kBool, at::kBool},
}};

// The tensor's dtype. REQUIRES: a dtype that check() accepts.
inline at::ScalarType scalar_type(DType dtype) {
  return kDTypes[static_cast<size_t>(dtype)].second;
}

// Nothing for one that no file can hold.
inline std::optional<DType> dtype_of(at::ScalarType type) {
  for (const auto& [dtype, scalar_type] : kDTypes) {
    if (scalar_type == type) return dtype;
  }
  return std::nullopt;
}

}  // namespace pomona
