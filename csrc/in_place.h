#pragma once
// What every in-place operator of ours does above its kernels: nothing is recorded for backward,
// what would have to be is refused, and versions are bumped, so that a tensor saved for backward
// before the call gives an error and not a wrong gradient.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/GradMode.h>

namespace pomona {

// REQUIRES: called by the ADInplaceOrView kernel of `op`, which writes to `written`.
template <class Op, class... Arguments>
void redispatch_in_place(const Op& op, c10::DispatchKeySet keys, at::TensorList written,
                         const Arguments&... arguments) {
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    op.redispatch(keys & c10::after_ADInplaceOrView_keyset, arguments...);
  }
  for (const at::Tensor& tensor : written) tensor.unsafeGetTensorImpl()->bump_version();
}

// REQUIRES: called by the Autograd kernel of `op`, whose argument `argument` is `written`. As torch
// refuses any in-place operation on a leaf.
template <class Op, class... Arguments>
void redispatch_unrecorded(const Op& op, c10::DispatchKeySet keys, const char* name,
                           const char* argument, at::TensorList written,
                           const Arguments&... arguments) {
  for (size_t i = 0; i < written.size() && c10::GradMode::is_enabled(); ++i) {
    TORCH_CHECK(!written[i].requires_grad(), name, ": expected ", argument, "[", i,
                "] not to require gradients here, got one that does. Call it under "
                "torch.no_grad(): it is not differentiable.");
  }
  const at::AutoDispatchBelowAutograd guard;
  op.redispatch(keys & c10::after_autograd_keyset, arguments...);
}

}  // namespace pomona
