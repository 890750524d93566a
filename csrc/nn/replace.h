#pragma once
// What to_layers_, to_dense_, pack_ and load_packed_ have in common: layers of a Sequential that
// become others.

#include <torch/nn/module.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>

#include <optional>
#include <string>
#include <typeinfo>
#include <vector>

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

// The weight that forward() reads; undefined for other kinds of layers.
inline at::Tensor weight_of(torch::nn::Module& module) {
  if (const auto* layer = dynamic_cast<torch::nn::LinearImpl*>(&module)) return layer->weight;
  if (const auto* layer = dynamic_cast<torch::nn::Conv2dImpl*>(&module)) return layer->weight;
  if (const auto* layer = dynamic_cast<torch::nn::EmbeddingImpl*>(&module)) return layer->weight;
  return {};
}

inline torch::nn::AnyModule& layer_at(torch::nn::Sequential& model, size_t i) {
  return *(model->begin() + static_cast<std::ptrdiff_t>(i));
}

// Puts what twin_of(name, layer) returns, where it returns something, into the layer's place; the
// names of those. All twins are made first, so that nothing is replaced when one is refused.
template <class TwinOf>
std::vector<std::string> replace_layers(torch::nn::Sequential& model, const TwinOf& twin_of) {
  const auto names = model->named_children().keys();
  std::vector<std::optional<torch::nn::AnyModule>> twins;
  for (size_t i = 0; i < model->size(); ++i) twins.push_back(twin_of(names[i], layer_at(model, i)));
  std::vector<std::string> replaced;
  for (size_t i = 0; i < twins.size(); ++i) {
    if (!twins[i]) continue;
    layer_at(model, i) = *twins[i];
    model->replace_module(names[i], twins[i]->ptr());
    replaced.push_back(names[i]);
  }
  return replaced;
}

}  // namespace pomona::nn
