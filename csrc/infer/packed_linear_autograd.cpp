// `packed_linear` and `packed_weight` as C++ functions; the derivative in input and bias, and the
// autocast rule, once for every backend.
//
//   dL/dinput = dL/dy W    dL/dbias = sum of dL/dy over the batch

#include "pomona/infer.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/le.h>
#include <ATen/ops/masked_fill.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/sum.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <numeric>
#include <vector>

namespace pomona {
namespace {

using PackedLinearSignature = at::Tensor(const at::Tensor&, const at::Tensor&,
                                         const std::optional<at::Tensor>&, c10::SymInt, bool);
using PackedWeightSignature = at::Tensor(const at::Tensor&, c10::SymInt, c10::SymInt);

const auto& packed_linear_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("pomona::packed_linear", "")
                             .typed<PackedLinearSignature>();
  return op;
}

const auto& packed_weight_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("pomona::packed_weight", "")
                             .typed<PackedWeightSignature>();
  return op;
}

// [..., features] -> [features].
at::Tensor sum_of_batch(const at::Tensor& grad) {
  std::vector<int64_t> leading(static_cast<size_t>(grad.dim() - 1));
  std::iota(leading.begin(), leading.end(), 0);
  return leading.empty() ? grad : at::sum(grad, leading);  // sum over no dimension means all
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct PackedLinear : torch::autograd::Function<PackedLinear> {
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& input, const at::Tensor& packed,
                            const std::optional<at::Tensor>& bias, const c10::SymInt& out_features,
                            bool relu) {
    ctx->saved_data["in_features"] = input.dim() > 0 ? input.sym_size(-1) : c10::SymInt(0);
    ctx->saved_data["out_features"] = out_features;
    ctx->saved_data["has_bias"] = bias.has_value();
    at::AutoDispatchBelowADInplaceOrView guard;
    const at::Tensor output = packed_linear_op().call(input, packed, bias, out_features, relu);
    ctx->save_for_backward({packed, relu ? output : at::Tensor()});
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const c10::SymInt out_features = ctx->saved_data["out_features"].toSymInt();
    const auto saved = ctx->get_saved_variables();
    const at::Tensor grad = saved[1].defined() ? grads[0].masked_fill(saved[1].le(0), 0) : grads[0];
    at::Tensor input_grad, bias_grad;
    if (ctx->needs_input_grad(0)) {
      const at::Tensor weight = packed_weight_op().call(saved[0], out_features,
                                                        ctx->saved_data["in_features"].toSymInt());
      input_grad = at::matmul(grad, weight);
    }
    if (ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2)) {
      bias_grad = sum_of_batch(grad);
    }
    return {input_grad, {}, bias_grad, {}, {}};
  }
};

at::Tensor packed_linear_autograd(const at::Tensor& input, const at::Tensor& packed,
                                  const std::optional<at::Tensor>& bias, c10::SymInt out_features,
                                  bool relu) {
  const bool needs_graph =
      at::GradMode::is_enabled() && (input.requires_grad() || (bias && bias->requires_grad()));
  if (needs_graph) return PackedLinear::apply(input, packed, bias, out_features, relu);
  at::AutoDispatchBelowADInplaceOrView guard;  // inference: microseconds count
  return packed_linear_op().call(input, packed, bias, std::move(out_features), relu);
}

// Under autocast the input is widened: sums of packed weights are fp32 whatever the network is.
template <c10::DispatchKey kKey, at::DeviceType kDevice>
at::Tensor packed_linear_autocast(const at::Tensor& input, const at::Tensor& packed,
                                  const std::optional<at::Tensor>& bias, c10::SymInt out_features,
                                  bool relu) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(kKey);
  return packed_linear_op().call(at::autocast::cached_cast(at::kFloat, input, kDevice), packed,
                                 at::autocast::cached_cast(at::kFloat, bias, kDevice),
                                 std::move(out_features), relu);
}

}  // namespace

at::Tensor packed_linear(const at::Tensor& input, const at::Tensor& packed,
                         const std::optional<at::Tensor>& bias, int64_t out_features,
                         bool has_relu) {
  return packed_linear_op().call(input, packed, bias, out_features, has_relu);
}

at::Tensor packed_weight(const at::Tensor& packed, int64_t out_features, int64_t in_features) {
  return packed_weight_op().call(packed, out_features, in_features);
}

}  // namespace pomona

TORCH_LIBRARY_IMPL(pomona, Autograd, m) {
  m.impl("packed_linear", &pomona::packed_linear_autograd);
}

TORCH_LIBRARY_IMPL(pomona, AutocastCPU, m) {
  m.impl("packed_linear", &pomona::packed_linear_autocast<c10::DispatchKey::AutocastCPU, at::kCPU>);
}

TORCH_LIBRARY_IMPL(pomona, AutocastCUDA, m) {
  m.impl("packed_linear",
         &pomona::packed_linear_autocast<c10::DispatchKey::AutocastCUDA, at::kCUDA>);
}
