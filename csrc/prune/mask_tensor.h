#pragma once
// Between a Mask and the row-aligned bytes that operators take, and which tensors we may write.

#include "pomona/live.h"
#include "pomona/mask.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace pomona {

// uint8 [dim0, ceil(row / 8)], CPU. `shape` is the weight's.
at::Tensor to_tensor(const Mask& mask, const std::vector<int64_t>& shape);
// Its inverse. REQUIRES: the shape is that of to_tensor.
Mask to_mask(const at::Tensor& tensor, const std::vector<int64_t>& shape);

// A tensor whose memory is what it seems to be: no wrapper subclass (8-bit states), nothing sparse.
bool is_plain(const at::Tensor& tensor);

}  // namespace pomona
