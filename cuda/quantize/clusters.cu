// pool_gradients_ and snap_weights_ on CUDA: checks, guard, stream, launch.
#include "base/stream_launcher.cuh"
#include "quantize/clusters.h"
#include "quantize/clusters_kernel.cuh"

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace pomona {
namespace {

constexpr int64_t kCodeBits = 8;  // codes are not packed here

template <class Float>
using WordOf = std::conditional_t<sizeof(Float) == 2, uint16_t,
                                  std::conditional_t<sizeof(Float) == 4, uint32_t, uint64_t>>;

DeviceLayout layout_of(const at::Tensor& codes, int64_t group, int64_t k) {
  return {codes.const_data_ptr<uint8_t>(), kCodeBits, codes.numel(),
          group > 0 ? group : std::max<int64_t>(codes.numel(), 1), k};
}

template <class Float>
void pool_gradient(const at::Tensor& gradient, const DeviceLayout& layout, const at::Tensor& counts,
                   bool mean) {
  using Sum = std::conditional_t<std::is_same_v<Float, double>, double, float>;
  const SumGrid grid = sum_grid<Sum>(layout);
  const at::Tensor partials = at::empty({partial_count(layout, grid)},
                                        gradient.options().dtype(c10::CppTypeToScalarType<Sum>()));
  const at::Tensor entries = at::empty(counts.sizes(), gradient.options());
  launch_pool<WordOf<Float>>(on_current_stream(), layout, grid, counts.const_data_ptr<double>(),
                             mean, partials.mutable_data_ptr<Sum>(),
                             entries.mutable_data_ptr<Float>(), gradient.mutable_data_ptr<Float>());
}

template <class Float>
void snap_weight(const at::Tensor& weight, const DeviceLayout& layout, const at::Tensor& counts,
                 const at::Tensor& first) {
  const SumGrid grid = sum_grid<double>(layout);
  const at::Tensor partials = at::empty({partial_count(layout, grid)}, counts.options());
  const at::Tensor entries = at::empty(counts.sizes(), weight.options());
  launch_snap<WordOf<Float>>(on_current_stream(), layout, grid, counts.const_data_ptr<double>(),
                             first.const_data_ptr<int64_t>(), partials.mutable_data_ptr<double>(),
                             entries.mutable_data_ptr<Float>(), weight.mutable_data_ptr<Float>());
}

// f(contiguous) on a tensor of any strides.
template <class Function>
void with_contiguous(const at::Tensor& tensor, const Function& f) {
  const c10::cuda::CUDAGuard guard(tensor.device());
  const at::Tensor contiguous = tensor.contiguous();
  f(contiguous);
  if (!contiguous.is_same(tensor)) tensor.copy_(contiguous);
}

void pool_gradients_cuda(at::TensorList gradients, at::TensorList codes, at::TensorList counts,
                         at::IntArrayRef groups, bool mean) {
  check_pool_gradients_(gradients, codes, counts, groups);
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (gradients[i].numel() == 0) continue;
    const DeviceLayout layout = layout_of(codes[i], groups[i], counts[i].size(1));
    with_contiguous(gradients[i], [&](const at::Tensor& gradient) {
      AT_DISPATCH_FLOATING_TYPES_AND2(
          at::kHalf, at::kBFloat16, gradient.scalar_type(), "pool_gradients_",
          [&] { pool_gradient<scalar_t>(gradient, layout, counts[i], mean); });
    });
  }
}

void snap_weights_cuda(at::TensorList weights, at::TensorList codes, at::TensorList counts,
                       at::TensorList first, at::IntArrayRef groups) {
  check_snap_weights_(weights, codes, counts, first, groups);
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i].numel() == 0) continue;
    const DeviceLayout layout = layout_of(codes[i], groups[i], counts[i].size(1));
    with_contiguous(weights[i], [&](const at::Tensor& weight) {
      AT_DISPATCH_FLOATING_TYPES_AND2(
          at::kHalf, at::kBFloat16, weight.scalar_type(), "snap_weights_",
          [&] { snap_weight<scalar_t>(weight, layout, counts[i], first[i]); });
    });
  }
}

}  // namespace
}  // namespace pomona

TORCH_LIBRARY_IMPL(pomona, CUDA, m) {
  m.impl("pool_gradients_", TORCH_FN(pomona::pool_gradients_cuda));
  m.impl("snap_weights_", TORCH_FN(pomona::snap_weights_cuda));
}
