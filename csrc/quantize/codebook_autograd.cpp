// `lookup` and `centroid_grad` as C++ functions, their derivatives, once for every backend, and
// their autocast rule. Each is the other's derivative (thesis eq. 4.3 is the first), so second
// order is right too.

#include "pomona/quantize.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace pomona {
namespace {

using LookupSignature = at::Tensor(const at::Tensor&, const at::Tensor&, c10::SymIntArrayRef,
                                   int64_t, std::optional<at::ScalarType>);
using CentroidGradSignature = at::Tensor(const at::Tensor&, const at::Tensor&, c10::SymInt,
                                         int64_t);

const auto& lookup_op() {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("pomona::lookup", "").typed<LookupSignature>();
  return op;
}

const auto& centroid_grad_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("pomona::centroid_grad", "")
                             .typed<CentroidGradSignature>();
  return op;
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Lookup : torch::autograd::Function<Lookup> {
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& codebook,
                            const at::Tensor& codes, c10::SymIntArrayRef shape, int64_t bits,
                            std::optional<at::ScalarType> dtype) {
    ctx->save_for_backward({codes});
    ctx->saved_data["k"] = codebook.dim() == 1 ? codebook.sym_size(0) : c10::SymInt(0);
    ctx->saved_data["bits"] = bits;
    ctx->saved_data["dtype"] = codebook.scalar_type();
    at::AutoDispatchBelowADInplaceOrView guard;
    return lookup_op().call(codebook, codes, shape, bits, dtype);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const at::Tensor sums =
        centroid_grad_op().call(grads[0], ctx->get_saved_variables()[0],
                                ctx->saved_data["k"].toSymInt(), ctx->saved_data["bits"].toInt());
    return {sums.to(ctx->saved_data["dtype"].toScalarType()), {}, {}, {}, {}};
  }
};

struct CentroidGrad : torch::autograd::Function<CentroidGrad> {
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& grad, const at::Tensor& codes,
                            const c10::SymInt& k, int64_t bits) {
    ctx->save_for_backward({codes});
    ctx->saved_data["shape"] = grad.sym_sizes();
    ctx->saved_data["bits"] = bits;
    ctx->saved_data["dtype"] = grad.scalar_type();
    at::AutoDispatchBelowADInplaceOrView guard;
    return centroid_grad_op().call(grad, codes, k, bits);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return {lookup_op().call(
                grads[0], ctx->get_saved_variables()[0], ctx->saved_data["shape"].toSymIntVector(),
                ctx->saved_data["bits"].toInt(), ctx->saved_data["dtype"].toScalarType()),
            {},
            {},
            {}};
  }
};

at::Tensor lookup_autograd(const at::Tensor& codebook, const at::Tensor& codes,
                           c10::SymIntArrayRef shape, int64_t bits,
                           std::optional<at::ScalarType> dtype) {
  return Lookup::apply(codebook, codes, shape, bits, dtype);
}

at::Tensor centroid_grad_autograd(const at::Tensor& grad, const at::Tensor& codes, c10::SymInt k,
                                  int64_t bits) {
  return CentroidGrad::apply(grad, codes, k, bits);
}

// Under autocast the k floats of the codebook are cast, not the weight that they become.
template <c10::DispatchKey kKey, at::DeviceType kDevice>
at::Tensor lookup_autocast(const at::Tensor& codebook, const at::Tensor& codes,
                           c10::SymIntArrayRef shape, int64_t bits,
                           std::optional<at::ScalarType> dtype) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(kKey);
  const at::Tensor cast = at::autocast::cached_cast(
      dtype.value_or(at::autocast::get_autocast_dtype(kDevice)), codebook, kDevice);
  return lookup_op().call(cast, codes, shape, bits, dtype);
}

}  // namespace

at::Tensor lookup(const at::Tensor& codebook, const at::Tensor& codes, at::IntArrayRef shape,
                  int64_t bits, std::optional<at::ScalarType> dtype) {
  return lookup_op().call(codebook, codes, c10::fromIntArrayRefSlow(shape), bits, dtype);
}

at::Tensor centroid_grad(const at::Tensor& grad, const at::Tensor& codes, int64_t k, int64_t bits) {
  return centroid_grad_op().call(grad, codes, k, bits);
}

}  // namespace pomona

TORCH_LIBRARY_IMPL(pomona, Autograd, m) {
  m.impl("lookup", &pomona::lookup_autograd);
  m.impl("centroid_grad", &pomona::centroid_grad_autograd);
}

TORCH_LIBRARY_IMPL(pomona, AutocastCPU, m) {
  m.impl("lookup", &pomona::lookup_autocast<c10::DispatchKey::AutocastCPU, at::kCPU>);
}

TORCH_LIBRARY_IMPL(pomona, AutocastCUDA, m) {
  m.impl("lookup", &pomona::lookup_autocast<c10::DispatchKey::AutocastCUDA, at::kCUDA>);
}
