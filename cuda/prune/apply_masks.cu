// apply_masks_ on CUDA: checks, guard, stream, launch.
#include "base/stream_launcher.cuh"
#include "prune/apply_masks.h"
#include "prune/apply_masks_kernel.cuh"

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <utility>
#include <vector>

namespace pomona {
namespace {

std::span<const int64_t> to_span(at::IntArrayRef values) {
  return {values.data(), values.size()};
}

// False when the kernel's description has no room for the tensor's strides.
bool describe(const at::Tensor& tensor, const at::Tensor& mask, MaskedTensor& masked) {
  masked.data = tensor.mutable_data_ptr();
  masked.mask = mask.const_data_ptr<uint8_t>();
  masked.size = tensor.numel();
  masked.row_size = tensor.dim() == 0 || masked.size == 0 ? 1 : masked.size / tensor.size(0);
  masked.element_size = static_cast<int>(tensor.element_size());
  return set_layout(masked, to_span(tensor.sizes()), to_span(tensor.strides()));
}

void apply_masks_cuda(at::TensorList tensors, at::TensorList masks) {
  check_apply_masks_(tensors, masks);
  if (tensors.empty()) return;
  const c10::cuda::CUDAGuard guard(tensors[0].device());
  std::vector<MaskedTensor> masked;
  masked.reserve(tensors.size());
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;  // of tensors with odd strides
  for (size_t i = 0; i < tensors.size(); ++i) {
    MaskedTensor description;
    if (!describe(tensors[i], masks[i], description)) {
      copies.emplace_back(tensors[i], tensors[i].contiguous());
      describe(copies.back().second, masks[i], description);
    }
    masked.push_back(description);
  }
  launch_apply_masks(on_current_stream(), masked);
  for (const auto& [tensor, copy] : copies) tensor.copy_(copy);
}

}  // namespace
}  // namespace pomona

TORCH_LIBRARY_IMPL(pomona, CUDA, m) {
  m.impl("apply_masks_", &pomona::apply_masks_cuda);
}
