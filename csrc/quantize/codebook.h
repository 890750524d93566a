#pragma once
// What every backend of `lookup` and `centroid_grad` checks first.

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include <optional>

namespace pomona {

// lookup(codebook [1..2^bits] floating, codes uint8 of any shape with packed_size(numel, bits)
// elements in row-major order, shape, bits 1, 2, 4 or 8, dtype floating or none). Throws ValueError
// or TypeError. Of a code outside the codebook it knows nothing: kernels give NaN for it.
void check_lookup(const at::Tensor& codebook, const at::Tensor& codes, c10::SymIntArrayRef shape,
                  int64_t bits, std::optional<at::ScalarType> dtype);

// centroid_grad(grad of any shape, floating, codes as above, k in 1..2^bits, bits). Kernels drop
// codes from k on.
void check_centroid_grad(const at::Tensor& grad, const at::Tensor& codes, const c10::SymInt& k,
                         int64_t bits);

// The dtype of centroid_grad's result, in which it accumulates: float64 for float64, else float32.
at::ScalarType sum_dtype(at::ScalarType grad);

}  // namespace pomona
