#pragma once
// The operator pomona::apply_masks_ and the checks that its backends share.

#include "pomona/export.h"

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <vector>

namespace pomona {

// The mask's shape for a weight's: [dim0, ceil(product of the other dims / 8)]; a 0-dimensional
// weight has one row.
POMONA_API std::vector<c10::SymInt> mask_shape(c10::SymIntArrayRef sizes);

// What apply_masks_ takes, on every backend (the CUDA and Meta kernels call it too): as many masks
// as tensors; tensors strided, floating-point, without internal overlap; masks uint8, of
// mask_shape(), contiguous; all on one device. Throws ValueError or TypeError, naming the index.
POMONA_API void check_apply_masks_(at::TensorList tensors, at::TensorList masks);

// Calls the operator through the dispatcher, under no_grad: versions are bumped, any backend
// serves.
void apply_masks_(at::TensorList tensors, at::TensorList masks);

}  // namespace pomona
