#pragma once
// What to_layers_ and to_dense_ have in common: layers of a Sequential that become others.

#include <torch/nn/module.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/modules/container/sequential.h>

#include <string>
#include <typeinfo>

namespace pomona::nn {

// Another Parameter under a name that the module has. A module holds each one twice: `member` is
// what its forward() reads, the list is what parameters() reads. Only subclasses reach the list.
inline void set_parameter(torch::nn::Module& module, const char* name, at::Tensor& member,
                          const at::Tensor& parameter) {
  struct Access : torch::nn::Module {
    static auto list() { return &Access::parameters_; }
  };
  (module.*Access::list())[name] = parameter;
  member = parameter;
}

// The layer's pointer when it is of exactly this type: a subclass may do anything.
template <class Layer>
Layer* exactly(torch::nn::Module& module) {
  return typeid(module) == typeid(Layer) ? static_cast<Layer*>(&module) : nullptr;
}

inline torch::nn::AnyModule& layer_at(torch::nn::Sequential& model, size_t i) {
  return *(model->begin() + static_cast<std::ptrdiff_t>(i));
}

inline void put(torch::nn::Sequential& model, size_t i, const std::string& name,
                const torch::nn::AnyModule& layer) {
  layer_at(model, i) = layer;
  model->replace_module(name, layer.ptr());
}

}  // namespace pomona::nn
