#include "nn/shared_layer.h"

#include <ATen/ops/linear.h>

namespace pomona::nn {

template class SharedLayer<SharedLinearImpl>;

SharedLinearImpl::SharedLinearImpl(const at::Tensor& weight, const at::Tensor& bias_values)
    : SharedLayer("SharedLinear", weight, 2, "[out, in]"),
      bias(bias_values),
      in_features(weight.size(1)),
      out_features(weight.size(0)) {
  reset();
}

void SharedLinearImpl::reset() {
  SharedLayer::reset();
  register_bias(bias);
}

void SharedLinearImpl::pretty_print(std::ostream& stream) const {
  stream << "pomona::nn::SharedLinear(in_features=" << in_features
         << ", out_features=" << out_features << ", ";
  print_codes(stream);
  stream << ", bias=" << (bias.defined() ? "true" : "false") << ")";
}

at::Tensor SharedLinearImpl::forward(const at::Tensor& input) {
  return at::linear(input, weight(), bias.defined() ? std::optional(bias) : std::nullopt);
}

}  // namespace pomona::nn
