#pragma once
// What every backend of `packed_linear` and `packed_weight` checks first.

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <optional>

namespace pomona {

// input [..., cols] float32 with at least one dimension; packed uint8 [bytes], contiguous; bias
// float32 [out_features] or none; all on one device. Throws ValueError or TypeError. What stands in
// `packed` is not looked at: a kernel compares its header with cols and out_features (on CUDA the
// header is on the device; there a kernel gives NaN where it does not fit).
void check_packed_linear(const at::Tensor& input, const at::Tensor& packed,
                         const std::optional<at::Tensor>& bias, const c10::SymInt& out_features);

// packed as above; out_features and in_features of at least 0.
void check_packed_weight(const at::Tensor& packed, const c10::SymInt& out_features,
                         const c10::SymInt& in_features);

}  // namespace pomona
