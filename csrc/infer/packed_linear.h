#pragma once
// What every backend of the operators on packed weights checks first, and how those of the CPU read
// a buffer.

#include "infer/packed_matrix.h"

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

// indices int64 or int32 on the device of packed; the rest as above.
void check_packed_embedding(const at::Tensor& indices, const at::Tensor& packed,
                            const c10::SymInt& num_embeddings, const c10::SymInt& embedding_dim);

// Contiguous and at an address that int64 can be read from: a slice of a larger buffer may begin
// anywhere.
at::Tensor aligned_bytes(const at::Tensor& packed);
// The matrix [rows, cols] in a buffer; `shape` says the two in the words of `op`. Throws ValueError
// for another one. REQUIRES: aligned_bytes().
PackedMatrix view_of(const char* op, const char* shape, const at::Tensor& packed, int64_t rows,
                     int64_t cols);

}  // namespace pomona
