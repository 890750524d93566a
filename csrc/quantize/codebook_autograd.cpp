// `lookup` and `centroid_grad` as C++ functions, their derivatives, once for every backend, and
// their autocast rule. Each is the other's derivative (thesis eq. 4.3 is the first), so second
// order is right too.

#include "pomona/quantize.h"

#include "in_place.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace pomona {
namespace {

using LookupSignature = at::Tensor(const at::Tensor&, const at::Tensor&, c10::SymIntArrayRef,
                                   int64_t, c10::SymInt, bool, std::optional<at::ScalarType>);
using CentroidGradSignature = at::Tensor(const at::Tensor&, const at::Tensor&, c10::SymInt, int64_t,
                                         c10::SymInt, bool);
using LookupIntoSignature = void(const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t,
                                 c10::SymInt, bool);

const auto& lookup_op() {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("pomona::lookup", "").typed<LookupSignature>();
  return op;
}

const auto& lookup_into_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("pomona::lookup_into_", "")
                             .typed<LookupIntoSignature>();
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

// What both keep for the other.
void save_format(AutogradContext* ctx, const at::Tensor& codes, int64_t bits,
                 const c10::SymInt& group, bool has_zero, at::ScalarType dtype) {
  ctx->save_for_backward({codes});
  ctx->saved_data["bits"] = bits;
  ctx->saved_data["group"] = group;
  ctx->saved_data["has_zero"] = has_zero;
  ctx->saved_data["dtype"] = dtype;
}

struct Lookup : torch::autograd::Function<Lookup> {
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& codebook,
                            const at::Tensor& codes, c10::SymIntArrayRef shape, int64_t bits,
                            const c10::SymInt& group, bool has_zero,
                            std::optional<at::ScalarType> dtype) {
    save_format(ctx, codes, bits, group, has_zero, codebook.scalar_type());
    ctx->saved_data["k"] = codebook.dim() > 0 ? codebook.sym_size(-1) : c10::SymInt(0);
    at::AutoDispatchBelowADInplaceOrView guard;
    return lookup_op().call(codebook, codes, shape, bits, group, has_zero, dtype);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto& saved = ctx->saved_data;
    const at::Tensor sums = centroid_grad_op().call(
        grads[0], ctx->get_saved_variables()[0], saved["k"].toSymInt(), saved["bits"].toInt(),
        saved["group"].toSymInt(), saved["has_zero"].toBool());
    return {sums.to(saved["dtype"].toScalarType()), {}, {}, {}, {}, {}, {}};
  }
};

struct CentroidGrad : torch::autograd::Function<CentroidGrad> {
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& grad, const at::Tensor& codes,
                            const c10::SymInt& k, int64_t bits, const c10::SymInt& group,
                            bool has_zero) {
    save_format(ctx, codes, bits, group, has_zero, grad.scalar_type());
    ctx->saved_data["shape"] = grad.sym_sizes();
    at::AutoDispatchBelowADInplaceOrView guard;
    return centroid_grad_op().call(grad, codes, k, bits, group, has_zero);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto& saved = ctx->saved_data;
    return {
        lookup_op().call(grads[0], ctx->get_saved_variables()[0], saved["shape"].toSymIntVector(),
                         saved["bits"].toInt(), saved["group"].toSymInt(),
                         saved["has_zero"].toBool(), saved["dtype"].toScalarType()),
        {},
        {},
        {},
        {},
        {}};
  }
};

at::Tensor lookup_autograd(const at::Tensor& codebook, const at::Tensor& codes,
                           c10::SymIntArrayRef shape, int64_t bits, c10::SymInt group,
                           bool has_zero, std::optional<at::ScalarType> dtype) {
  return Lookup::apply(codebook, codes, shape, bits, group, has_zero, dtype);
}

void lookup_into_in_place(c10::DispatchKeySet keys, const at::Tensor& out,
                          const at::Tensor& codebook, const at::Tensor& codes, int64_t bits,
                          c10::SymInt group, bool has_zero) {
  redispatch_in_place(lookup_into_op(), keys, {out}, out, codebook, codes, bits, group, has_zero);
}

// Not differentiable, as torch's own out= forms.
void lookup_into_autograd(c10::DispatchKeySet keys, const at::Tensor& out,
                          const at::Tensor& codebook, const at::Tensor& codes, int64_t bits,
                          c10::SymInt group, bool has_zero) {
  redispatch_unrecorded(lookup_into_op(), keys, "lookup_into_", "(out, codebook)", {out, codebook},
                        out, codebook, codes, bits, group, has_zero);
}

at::Tensor centroid_grad_autograd(const at::Tensor& grad, const at::Tensor& codes, c10::SymInt k,
                                  int64_t bits, c10::SymInt group, bool has_zero) {
  return CentroidGrad::apply(grad, codes, k, bits, group, has_zero);
}

// Under autocast the k floats of the codebook are cast, not the weight that they become.
template <c10::DispatchKey kKey, at::DeviceType kDevice>
at::Tensor lookup_autocast(const at::Tensor& codebook, const at::Tensor& codes,
                           c10::SymIntArrayRef shape, int64_t bits, c10::SymInt group,
                           bool has_zero, std::optional<at::ScalarType> dtype) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(kKey);
  const at::Tensor cast = at::autocast::cached_cast(
      dtype.value_or(at::autocast::get_autocast_dtype(kDevice)), codebook, kDevice);
  return lookup_op().call(cast, codes, shape, bits, std::move(group), has_zero, dtype);
}

}  // namespace

at::Tensor lookup(const at::Tensor& codebook, const at::Tensor& codes, at::IntArrayRef shape,
                  const LookupOptions& options) {
  return lookup_op().call(codebook, codes, c10::fromIntArrayRefSlow(shape), options.bits,
                          options.group, options.has_zero, options.dtype);
}

void lookup_into_(const at::Tensor& out, const at::Tensor& codebook, const at::Tensor& codes,
                  const LookupOptions& options) {
  lookup_into_op().call(out, codebook, codes, options.bits, options.group, options.has_zero);
}

at::Tensor centroid_grad(const at::Tensor& grad, const at::Tensor& codes, int64_t k,
                         const LookupOptions& options) {
  return centroid_grad_op().call(grad, codes, k, options.bits, options.group, options.has_zero);
}

}  // namespace pomona

TORCH_LIBRARY_IMPL(pomona, Autograd, m) {
  m.impl("lookup", &pomona::lookup_autograd);
  m.impl("lookup_into_", TORCH_FN(pomona::lookup_into_autograd));
  m.impl("centroid_grad", &pomona::centroid_grad_autograd);
}

TORCH_LIBRARY_IMPL(pomona, ADInplaceOrView, m) {
  m.impl("lookup_into_", TORCH_FN(pomona::lookup_into_in_place));
}

TORCH_LIBRARY_IMPL(pomona, AutocastCPU, m) {
  m.impl("lookup", &pomona::lookup_autocast<c10::DispatchKey::AutocastCPU, at::kCPU>);
}

TORCH_LIBRARY_IMPL(pomona, AutocastCUDA, m) {
  m.impl("lookup", &pomona::lookup_autocast<c10::DispatchKey::AutocastCUDA, at::kCUDA>);
}
