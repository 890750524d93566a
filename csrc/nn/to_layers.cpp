#include "pomona/error.h"
#include "pomona/nn.h"
#include "pomona/packed_bits.h"

#include "base/text.h"
#include "nn/replace.h"
#include "nn/shared_layer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace pomona::nn {
namespace {

using torch::nn::Module;
using Identity = const c10::TensorImpl*;

constexpr int64_t kCodeBits = 8;  // of the codes that a Sharer holds

bool is_replaceable(Module& module) {
  if (exactly<torch::nn::LinearImpl>(module) || exactly<torch::nn::Conv2dImpl>(module)) return true;
  const auto* embedding = exactly<torch::nn::EmbeddingImpl>(module);
  if (embedding == nullptr) return false;
  const auto& options = embedding->options;
  return !options.max_norm() && !options.scale_grad_by_freq() && !options.sparse();
}

// The weights of all modules that stay, those inside them included.
std::set<Identity> staying(torch::nn::Sequential& model) {
  std::set<Identity> found;
  const auto add = [&](const at::Tensor& tensor) { found.insert(tensor.unsafeGetTensorImpl()); };
  for (const at::Tensor& parameter : model->parameters(/*recurse=*/false)) add(parameter);
  const auto children = model->children();
  for (size_t i = 0; i < children.size(); ++i) {
    if (i < model->size() && is_replaceable(*children[i])) continue;
    for (const auto& module : children[i]->modules()) {
      for (const at::Tensor& parameter : module->parameters(/*recurse=*/false)) add(parameter);
      if (const at::Tensor weight = weight_of(*module); weight.defined()) add(weight);
    }
  }
  return found;
}

// Parameters under the sharer's rules that may go -> their index in it.
std::map<Identity, size_t> shared_weights(torch::nn::Sequential& model, const Sharer& sharer) {
  const auto parameters = model->named_parameters();
  const auto stay = staying(model);
  std::map<Identity, size_t> indices;
  for (size_t i = 0; i < sharer.names().size(); ++i) {
    const at::Tensor* weight = parameters.find(sharer.names()[i]);
    if (weight == nullptr || stay.count(weight->unsafeGetTensorImpl()) != 0) continue;
    indices.emplace(weight->unsafeGetTensorImpl(), i);
  }
  return indices;
}

// The sharer's own codebook and codes: two centroids that meet stay two.
SharedWeight take_codes(const std::string& name, const at::Tensor& weight, const Sharer& sharer,
                        size_t i) {
  if (sharer.group(i) != 0) {
    throw InvalidArgument(text("to_layers_: expected one codebook for `", name,
                               "`, got one for each ", sharer.group(i),
                               " weights. Share it with group 0."));
  }
  if (weight.numel() == 0) return take_codebook("to_layers_", weight, weight.dim(), "[...]");
  const bool fits = sharer.codes(i).sizes() == weight.sizes();
  const at::Tensor codes = sharer.codes(i).to(weight.device());
  const at::Tensor codebook = fits ? sharer.codebook(i, weight) : at::Tensor();
  if (!fits || !at::equal(weight, lookup(codebook, codes, weight.sizes(),
                                         {.bits = kCodeBits, .dtype = weight.scalar_type()}))) {
    throw InvalidArgument(text("to_layers_: expected the weight of `", name,
                               "` to be in its codebook, got others. Is this the model that was "
                               "shared?"));
  }
  const bool has_zero = sharer.has_zero(i);
  const int64_t bits = storage_bits(codebook.numel());
  return {codebook.slice(0, has_zero ? 1 : 0).clone(), packed_codes(codes, bits), bits, has_zero};
}

class Replacer {
 public:
  Replacer(torch::nn::Sequential& model, const Sharer& sharer)
      : sharer_(sharer), indices_(shared_weights(model, sharer)) {}

  // Nothing: the layer stays.
  std::optional<torch::nn::AnyModule> twin_of(const std::string& name,
                                              const torch::nn::AnyModule& layer) {
    Module& module = *layer.ptr();
    if (!is_replaceable(module)) return std::nullopt;
    const auto index = indices_.find(weight_of(module).unsafeGetTensorImpl());
    if (index == indices_.end()) return std::nullopt;
    if (const auto found = made_.find(&module); found != made_.end()) return found->second;
    return made_.emplace(&module, make(name, layer, index->second)).first->second;
  }

 private:
  torch::nn::AnyModule make(const std::string& name, const torch::nn::AnyModule& layer, size_t i) {
    if (exactly<torch::nn::LinearImpl>(*layer.ptr())) {
      return make<SharedLinear>(name, torch::nn::Linear(layer.ptr<torch::nn::LinearImpl>()), i);
    }
    if (exactly<torch::nn::Conv2dImpl>(*layer.ptr())) {
      return make<SharedConv2d>(name, torch::nn::Conv2d(layer.ptr<torch::nn::Conv2dImpl>()), i);
    }
    return make<SharedEmbedding>(name, torch::nn::Embedding(layer.ptr<torch::nn::EmbeddingImpl>()),
                                 i);
  }

  template <class Shared, class Dense>
  torch::nn::AnyModule make(const std::string& name, const Dense& dense, size_t i) {
    const at::Tensor& weight = dense->weight;
    SharedWeight shared = take_codes(name, weight, sharer_, i);
    Shared layer(dense);
    layer->bits = shared.bits;
    layer->has_zero = shared.has_zero;
    shared.codebook.requires_grad_(weight.requires_grad());
    const auto tied = first_of_.emplace(weight.unsafeGetTensorImpl(), shared).first->second;
    set_parameter(*layer, "codebook", layer->codebook, tied.codebook);
    layer->codes.set_data(tied.codes);
    if constexpr (requires { layer->bias; }) {
      if (dense->bias.defined()) set_parameter(*layer, "bias", layer->bias, dense->bias);
    }
    layer->train(dense->is_training());
    return torch::nn::AnyModule(layer);
  }

  const Sharer& sharer_;
  std::map<Identity, size_t> indices_;
  std::map<const Module*, torch::nn::AnyModule> made_;
  std::map<Identity, SharedWeight> first_of_;  // of the layers of one weight
};

}  // namespace

std::vector<std::string> to_layers_(torch::nn::Sequential& model, const Sharer& sharer) {
  if (!sharer.is_shared()) {
    throw InvalidArgument("to_layers_: expected a shared model, got none. Call sharer.assign().");
  }
  const at::NoGradGuard no_grad;
  Replacer replacer(model, sharer);
  return replace_layers(model, [&](const std::string& name, torch::nn::AnyModule& layer) {
    return replacer.twin_of(name, layer);
  });
}

}  // namespace pomona::nn
