// lookup and centroid_grad on CUDA: checks, guard, stream, launch.
#include "base/stream_launcher.cuh"
#include "quantize/codebook.h"
#include "quantize/codebook_kernel.cuh"

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <type_traits>

namespace pomona {
namespace {

// Elements are bit patterns of one size here: `Word` is an unsigned integer.
template <class Word>
void lookup_words(const at::Tensor& codebook, const at::Tensor& codes, int64_t bits,
                  const at::Tensor& out) {
  launch_lookup(on_current_stream(), static_cast<const Word*>(codebook.const_data_ptr()),
                codebook.numel(), codes.const_data_ptr<uint8_t>(), bits, out.numel(),
                static_cast<Word*>(out.mutable_data_ptr()));
}

at::Tensor lookup_cuda(const at::Tensor& codebook, const at::Tensor& codes,
                       c10::SymIntArrayRef shape, int64_t bits,
                       std::optional<at::ScalarType> dtype) {
  check_lookup(codebook, codes, shape, bits, dtype);
  const c10::cuda::CUDAGuard guard(codebook.device());
  const at::Tensor typed = codebook.to(dtype.value_or(codebook.scalar_type())).contiguous();
  const at::Tensor packed = codes.contiguous();
  const at::Tensor out = at::empty(C10_AS_INTARRAYREF_SLOW(shape), typed.options());
  switch (out.element_size()) {
    case 2:
      lookup_words<uint16_t>(typed, packed, bits, out);
      break;
    case 4:
      lookup_words<uint32_t>(typed, packed, bits, out);
      break;
    default:
      lookup_words<uint64_t>(typed, packed, bits, out);
  }
  return out;
}

template <class Grad, class Sum>
void centroid_grad_sums(const at::Tensor& grad, const at::Tensor& codes, int64_t bits,
                        const at::Tensor& sums) {
  const int64_t k = sums.numel();
  const SumGrid grid = sum_grid<Sum>(grad.numel(), k);
  const at::Tensor partials = at::empty({k * int64_t{grid.blocks}}, sums.options());
  launch_centroid_grad(on_current_stream(), grid, grad.const_data_ptr<Grad>(),
                       codes.const_data_ptr<uint8_t>(), bits, grad.numel(), k,
                       partials.mutable_data_ptr<Sum>(), sums.mutable_data_ptr<Sum>());
}

at::Tensor centroid_grad_cuda(const at::Tensor& grad, const at::Tensor& codes, c10::SymInt k,
                              int64_t bits) {
  check_centroid_grad(grad, codes, k, bits);
  const c10::cuda::CUDAGuard guard(grad.device());
  const at::Tensor sums = at::empty({k.guard_int(__FILE__, __LINE__)},
                                    grad.options().dtype(sum_dtype(grad.scalar_type())));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, grad.scalar_type(), "centroid_grad", [&] {
        using Sum = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
        centroid_grad_sums<scalar_t, Sum>(grad.contiguous(), codes.contiguous(), bits, sums);
      });
  return sums;
}

}  // namespace
}  // namespace pomona

TORCH_LIBRARY_IMPL(pomona, CUDA, m) {
  m.impl("lookup", TORCH_FN(pomona::lookup_cuda));
  m.impl("centroid_grad", TORCH_FN(pomona::centroid_grad_cuda));
}
