#pragma once
// One matrix of a layer that has several.

#include "pomona/io.h"
#include "pomona/nn.h"

#include <memory>

namespace pomona::nn {

// y = x W^T + b of one of its matrices, on the device of the weight; others than the CPU know csr16
// only. Throws as pack_fastest() and PackedLinear.
inline PackedLinear pack_projection(const at::Tensor& weight, const at::Tensor& bias,
                                    Packing packing) {
  if (!weight.is_cpu() && !packing.layout) packing.layout = Layout::kCsr16;
  PackedLinear layer(pack_fastest(to_weight("weight", weight), packing, torch_threads()), bias);
  layer->to(weight.device());
  return layer;
}

// What reset() does with each child: a copy of its own, registered.
template <class Holder>
Holder registered_copy(torch::nn::Module& parent, const char* name, const Holder& child) {
  using Impl = typename Holder::ContainedType;
  const auto copy = std::dynamic_pointer_cast<Impl>(child->clone());
  return Holder(parent.register_module(name, copy));
}

}  // namespace pomona::nn
