#pragma once
// What every backend of `pool_gradients_` and `snap_weights_` checks first.

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

namespace pomona {

// Tensor i has clusters group * k + code: `group` elements in a row (row-major; 0: all) share k
// codes. gradients: dense, floating, any strides; codes: uint8, of the same shape, contiguous,
// below k (not checked: Sharer makes and checks them); counts: float64 [groups, k], members of each
// cluster; a cluster of count 0 is frozen at 0.0, which is what becomes of pruned weights. Throws
// ValueError or TypeError, naming the tensor.
void check_pool_gradients_(at::TensorList gradients, at::TensorList codes, at::TensorList counts,
                           at::IntArrayRef groups);
// Besides, first: int64 [groups, k], the row-major index of a member of each cluster; -1: none.
void check_snap_weights_(at::TensorList weights, at::TensorList codes, at::TensorList counts,
                         at::TensorList first, at::IntArrayRef groups);

// Both through the dispatcher, under no_grad: versions are bumped, any backend serves.
void pool_gradients_(at::TensorList gradients, at::TensorList codes, at::TensorList counts,
                     at::IntArrayRef groups, bool mean);
void snap_weights_(at::TensorList weights, at::TensorList codes, at::TensorList counts,
                   at::TensorList first, at::IntArrayRef groups);

}  // namespace pomona
