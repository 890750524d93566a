#pragma once
// What reset() of a module with children does.

#include <torch/nn/module.h>

#include <memory>

namespace pomona::nn {

// A copy of a child of its own, registered.
template <class Holder>
Holder registered_copy(torch::nn::Module& parent, const char* name, const Holder& child) {
  using Impl = typename Holder::ContainedType;
  const auto copy = std::dynamic_pointer_cast<Impl>(child->clone());
  return Holder(parent.register_module(name, copy));
}

}  // namespace pomona::nn
