// lookup and centroid_grad on CUDA: checks, guard, stream, launch.
#include "base/stream_launcher.cuh"
#include "quantize/codebook.h"
#include "quantize/codebook_kernel.cuh"

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <type_traits>

namespace pomona {
namespace {

// REQUIRES: packed is contiguous; checked.
DeviceLayout layout_of(const at::Tensor& packed, int64_t size, int64_t k,
                       const CodeFormat& format) {
  const int64_t group = format.group.guard_int(__FILE__, __LINE__);
  return {packed.const_data_ptr<uint8_t>(), format.bits, size,
          group > 0 ? group : std::max<int64_t>(size, 1), k};
}

// Elements are bit patterns of one size here: `Word` is an unsigned integer.
template <class Word>
void lookup_words(const at::Tensor& codebooks, const DeviceLayout& layout, const at::Tensor& out) {
  launch_lookup(on_current_stream(), static_cast<const Word*>(codebooks.const_data_ptr()), layout,
                static_cast<Word*>(out.mutable_data_ptr()));
}

void lookup_into(const at::Tensor& codebook, const at::Tensor& codes, const CodeFormat& format,
                 const at::Tensor& out) {
  const c10::cuda::CUDAGuard guard(codebook.device());
  const at::Tensor codebooks = kernel_codebook(codebook, format.has_zero, out.scalar_type());
  const at::Tensor packed = codes.contiguous();
  const DeviceLayout layout = layout_of(packed, out.numel(), codebooks.size(-1), format);
  switch (out.element_size()) {
    case 2:
      return lookup_words<uint16_t>(codebooks, layout, out);
    case 4:
      return lookup_words<uint32_t>(codebooks, layout, out);
    default:
      return lookup_words<uint64_t>(codebooks, layout, out);
  }
}

at::Tensor lookup_cuda(const at::Tensor& codebook, const at::Tensor& codes,
                       c10::SymIntArrayRef shape, int64_t bits, c10::SymInt group, bool has_zero,
                       std::optional<at::ScalarType> dtype) {
  const CodeFormat format{bits, std::move(group), has_zero};
  check_lookup(codebook, codes, shape, format, dtype);
  const at::Tensor out =
      at::empty(C10_AS_INTARRAYREF_SLOW(shape),
                codebook.options().dtype(dtype.value_or(codebook.scalar_type())));
  lookup_into(codebook, codes, format, out);
  return out;
}

void lookup_into_cuda(const at::Tensor& out, const at::Tensor& codebook, const at::Tensor& codes,
                      int64_t bits, c10::SymInt group, bool has_zero) {
  const CodeFormat format{bits, std::move(group), has_zero};
  check_lookup_into_(out, codebook, codes, format);
  lookup_into(codebook, codes, format, out);
}

template <class Grad, class Sum>
void centroid_grad_sums(const at::Tensor& grad, const DeviceLayout& layout,
                        const at::Tensor& sums) {
  const SumGrid grid = sum_grid<Sum>(layout);
  const at::Tensor partials = at::empty({partial_count(layout, grid)}, sums.options());
  launch_centroid_grad(on_current_stream(), layout, grid, grad.const_data_ptr<Grad>(),
                       partials.mutable_data_ptr<Sum>(), sums.mutable_data_ptr<Sum>());
}

at::Tensor centroid_grad_cuda(const at::Tensor& grad, const at::Tensor& codes, c10::SymInt k,
                              int64_t bits, c10::SymInt group, bool has_zero) {
  const CodeFormat format{bits, std::move(group), has_zero};
  check_centroid_grad(grad, codes, k, format);
  const c10::cuda::CUDAGuard guard(grad.device());
  const auto shape = sums_shape(grad, k + (has_zero ? 1 : 0), format);
  const at::Tensor sums = at::empty(C10_AS_INTARRAYREF_SLOW(shape),
                                    grad.options().dtype(sum_dtype(grad.scalar_type())));
  if (grad.numel() == 0) {
    sums.zero_();
  } else {
    const at::Tensor packed = codes.contiguous();
    const DeviceLayout layout = layout_of(packed, grad.numel(), sums.size(-1), format);
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kHalf, at::kBFloat16, grad.scalar_type(), "centroid_grad", [&] {
          using Sum = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
          centroid_grad_sums<scalar_t, Sum>(grad.contiguous(), layout, sums);
        });
  }
  return has_zero ? sums.slice(-1, 1).clone() : sums;
}

}  // namespace
}  // namespace pomona

TORCH_LIBRARY_IMPL(pomona, CUDA, m) {
  m.impl("lookup", TORCH_FN(pomona::lookup_cuda));
  m.impl("lookup_into_", TORCH_FN(pomona::lookup_into_cuda));
  m.impl("centroid_grad", TORCH_FN(pomona::centroid_grad_cuda));
}
