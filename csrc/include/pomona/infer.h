#pragma once
// Inference on the compressed weights (what thesis §4.8 says cuSPARSE and MKL lack).

#include "pomona/export.h"
#include "pomona/packed.h"

#include <ATen/core/Tensor.h>

#include <optional>

namespace pomona {

// The bytes of Packed as a uint8 tensor [size], CPU; and back, checked.
POMONA_API at::Tensor to_tensor(const Packed& packed);
POMONA_API Packed from_tensor(const at::Tensor& packed);

// input [..., cols] float32, packed uint8 (REQUIRES: made by pack and checked), bias [rows] or none
// -> [..., rows]. Not differentiable. torch.ops.pomona.packed_linear.
POMONA_API at::Tensor packed_linear(const at::Tensor& input, const at::Tensor& packed,
                                    const std::optional<at::Tensor>& bias, int64_t out_features);

}  // namespace pomona
