// apply_masks_: zeroes each tensor where its mask's bit is 0, many tensors in one call.
#include "prune/apply_masks.h"

#include "in_place.h"
#include "prune/apply_masks_kernel.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>

namespace pomona {

std::vector<c10::SymInt> mask_shape(c10::SymIntArrayRef sizes) {
  c10::SymInt row_size = 1;
  for (size_t d = 1; d < sizes.size(); ++d) row_size = row_size * sizes[d];
  return {sizes.empty() ? c10::SymInt(1) : sizes[0], (row_size + 7) / 8};
}

namespace {

void check_pair(const at::Tensor& tensor, const at::Tensor& mask, size_t i) {
  TORCH_CHECK_VALUE(tensor.defined() && mask.defined(), "apply_masks_: expected tensors[", i,
                    "] and masks[", i, "] to be defined, got an undefined tensor.");
  TORCH_CHECK_TYPE(tensor.layout() == at::kStrided && at::isFloatingType(tensor.scalar_type()),
                   "apply_masks_: expected tensors[", i,
                   "] to be dense and floating-point, got layout ", tensor.layout(), " and dtype ",
                   tensor.scalar_type(), ".");
  TORCH_CHECK_TYPE(mask.layout() == at::kStrided && mask.scalar_type() == at::kByte,
                   "apply_masks_: expected masks[", i, "] to be dense uint8, got layout ",
                   mask.layout(), " and dtype ", mask.scalar_type(), ".");
  const auto expected = mask_shape(tensor.sym_sizes());
  TORCH_CHECK_VALUE(mask.sym_sizes() == c10::SymIntArrayRef(expected),
                    "apply_masks_: expected masks[", i, "] of shape ",
                    c10::SymIntArrayRef(expected),
                    " (one row of bits, padded to bytes, for each row of the tensor), got ",
                    mask.sym_sizes(), ".");
  TORCH_CHECK_VALUE(mask.is_contiguous(), "apply_masks_: expected masks[", i,
                    "] to be contiguous, got strides ", mask.sym_strides(), ".");
  at::assert_no_internal_overlap(tensor);
}

// Splits the rows of one tensor among threads. Word: the unsigned integer of an element's size.
template <class Word>
void apply_mask_cpu(const at::Tensor& tensor, const at::Tensor& mask) {
  constexpr int64_t kGrain = 32768;  // elements that are worth a thread
  const at::IntArrayRef sizes = tensor.sizes(), strides = tensor.strides();
  const auto inner = [](at::IntArrayRef dims) {
    return dims.empty() ? std::span<const int64_t>() : std::span(dims.data() + 1, dims.size() - 1);
  };
  const int64_t rows = sizes.empty() ? 1 : sizes[0];
  const int64_t row_size = tensor.numel() / rows;
  const MaskedRows<Word> view{static_cast<Word*>(tensor.mutable_data_ptr()),
                              mask.const_data_ptr<uint8_t>(),
                              row_size,
                              strides.empty() ? 1 : strides[0],
                              inner(sizes),
                              inner(strides)};
  at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / row_size),
                   [&](int64_t begin, int64_t end) { apply_masks_rows(view, begin, end); });
}

void apply_masks_cpu(at::TensorList tensors, at::TensorList masks) {
  check_apply_masks_(tensors, masks);
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].numel() == 0) continue;
    switch (tensors[i].element_size()) {
      case 1:
        apply_mask_cpu<uint8_t>(tensors[i], masks[i]);
        break;
      case 2:
        apply_mask_cpu<uint16_t>(tensors[i], masks[i]);
        break;
      case 4:
        apply_mask_cpu<uint32_t>(tensors[i], masks[i]);
        break;
      default:
        apply_mask_cpu<uint64_t>(tensors[i], masks[i]);
        break;
    }
  }
}

auto apply_masks_handle() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("pomona::apply_masks_", "")
                                 .typed<void(at::TensorList, at::TensorList)>();
  return handle;
}

void apply_masks_in_place_or_view(c10::DispatchKeySet keys, at::TensorList tensors,
                                  at::TensorList masks) {
  redispatch_in_place(apply_masks_handle(), keys, tensors, tensors, masks);
}

void apply_masks_autograd(c10::DispatchKeySet keys, at::TensorList tensors, at::TensorList masks) {
  redispatch_unrecorded(apply_masks_handle(), keys, "apply_masks_", "tensors", tensors, tensors,
                        masks);
}

}  // namespace

void check_apply_masks_(at::TensorList tensors, at::TensorList masks) {
  TORCH_CHECK_VALUE(tensors.size() == masks.size(),
                    "apply_masks_: expected as many `masks` as `tensors`, got ", masks.size(),
                    " and ", tensors.size(), ".");
  for (size_t i = 0; i < tensors.size(); ++i) {
    check_pair(tensors[i], masks[i], i);
    const auto device = tensors[0].device();
    TORCH_CHECK_TYPE(tensors[i].device() == device && masks[i].device() == device,
                     "apply_masks_: expected everything on ", device,
                     " (the device of "
                     "tensors[0]), got tensors[",
                     i, "] on ", tensors[i].device(), " and masks[", i, "] on ", masks[i].device(),
                     ".");
  }
}

void apply_masks_(at::TensorList tensors, at::TensorList masks) {
  if (tensors.empty()) return;  // the dispatcher needs a tensor to know the backend
  const c10::AutoGradMode no_grad(false);
  apply_masks_handle().call(tensors, masks);
}

}  // namespace pomona

TORCH_LIBRARY_IMPL(pomona, CPU, m) {
  m.impl("apply_masks_", &pomona::apply_masks_cpu);
}
TORCH_LIBRARY_IMPL(pomona, Meta, m) {
  m.impl("apply_masks_", &pomona::check_apply_masks_);
}
TORCH_LIBRARY_IMPL(pomona, ADInplaceOrView, m) {
  m.impl("apply_masks_", TORCH_FN(pomona::apply_masks_in_place_or_view));
}
TORCH_LIBRARY_IMPL(pomona, Autograd, m) {
  m.impl("apply_masks_", TORCH_FN(pomona::apply_masks_autograd));
}
