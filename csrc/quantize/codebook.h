#pragma once
// What every backend of `lookup` and `centroid_grad` checks first.

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include <optional>
#include <vector>

namespace pomona {

// A codebook and its codes: `group` elements in a row share one codebook; 0: all do.
struct CodeFormat {
  int64_t bits;  // 1, 2, 4 or 8
  c10::SymInt group;
  bool has_zero;  // code 0 is 0.0 and no entry of the codebook; entry j has code j + 1
};

// lookup: codebook [k], or [groups, k] where group > 0, floating; codes uint8 of any shape with
// packed_size(numel, bits) elements in row-major order; k + has_zero in 1..2^bits; dtype floating
// or none. Throws ValueError or TypeError. Of a code outside the codebook it knows nothing: kernels
// give NaN for it.
void check_lookup(const at::Tensor& codebook, const at::Tensor& codes, c10::SymIntArrayRef shape,
                  const CodeFormat& format, std::optional<at::ScalarType> dtype);
// lookup_into_: the weight's shape and dtype are those of `out`, which is contiguous.
void check_lookup_into_(const at::Tensor& out, const at::Tensor& codebook, const at::Tensor& codes,
                        const CodeFormat& format);

// centroid_grad(grad of any shape, floating, codes as above, k). Kernels drop codes outside.
void check_centroid_grad(const at::Tensor& grad, const at::Tensor& codes, const c10::SymInt& k,
                         const CodeFormat& format);

// The dtype of centroid_grad's result, in which it accumulates: float64 for float64, else float32.
at::ScalarType sum_dtype(at::ScalarType grad);
// Its shape: [k], or [groups, k] where group > 0.
std::vector<c10::SymInt> sums_shape(const at::Tensor& grad, const c10::SymInt& k,
                                    const CodeFormat& format);

// A codebook as kernels take it: of `dtype`, contiguous, with the zero as entry 0 of each row.
at::Tensor kernel_codebook(const at::Tensor& codebook, bool has_zero, at::ScalarType dtype);

}  // namespace pomona
