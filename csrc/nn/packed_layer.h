#pragma once
// What layers on packed bytes have in common.

#include "pomona/error.h"
#include "pomona/infer.h"

#include "base/text.h"

#include <torch/nn/module.h>
#include <torch/serialize/input-archive.h>

namespace pomona::nn {

// Throws InvalidArgument, in the name of `layer`, for a matrix of another shape than [rows, cols];
// `what` is what holds it.
inline void check_shape(const char* layer, const char* what, const Packed& matrix, int64_t rows,
                        int64_t cols) {
  if (matrix.rows == rows && matrix.cols == cols) return;
  throw InvalidArgument(text(layer, ": expected `", what, "` of shape [", rows, ", ", cols,
                             "], got [", matrix.rows, ", ", matrix.cols, "]."));
}

// The buffer `packed` of a layer, checked. Throws as check_shape() and from_tensor().
inline Packed checked_matrix(const char* layer, const at::Tensor& packed, int64_t rows,
                             int64_t cols) {
  Packed matrix = from_tensor(packed);
  check_shape(layer, "packed", matrix, rows, cols);
  return matrix;
}

// Reads a layer's tensors. Its bytes are as they were when `check` refuses those that came.
template <class Check>
void load_checked(torch::nn::Module& layer, at::Tensor& packed,
                  torch::serialize::InputArchive& archive, const Check& check) {
  const at::Tensor before = packed.detach();
  layer.torch::nn::Module::load(archive);
  try {
    check();
  } catch (const InvalidArgument&) {
    packed.set_data(before);
    throw;
  }
}

}  // namespace pomona::nn
