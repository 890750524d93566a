#include "pomona/nn.h"

#include "nn/replace.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace pomona::nn {
namespace {

// A fresh layer draws its first values, which nobody needs: the caller's random numbers go on as if
// it had not.
class KeepRandom {
 public:
  KeepRandom() : generator_(at::detail::getDefaultCPUGenerator()), state_(generator_.get_state()) {}
  ~KeepRandom() { generator_.set_state(state_); }
  KeepRandom(const KeepRandom&) = delete;
  KeepRandom& operator=(const KeepRandom&) = delete;

 private:
  at::Generator generator_;
  at::Tensor state_;
};

// The frames, with values that are replaced.
torch::nn::Linear frame_of(const SharedLinearImpl& layer, const at::Tensor&) {
  const KeepRandom keep;
  return torch::nn::Linear(
      torch::nn::LinearOptions(layer.in_features, layer.out_features).bias(layer.bias.defined()));
}

torch::nn::Conv2d frame_of(const SharedConv2dImpl& layer, const at::Tensor&) {
  const KeepRandom keep;
  return torch::nn::Conv2d(layer.options);
}

torch::nn::Embedding frame_of(const SharedEmbeddingImpl& layer, const at::Tensor& weight) {
  return torch::nn::Embedding(torch::nn::EmbeddingOptions(layer.num_embeddings, layer.embedding_dim)
                                  .padding_idx(layer.padding_idx)
                                  ._weight(weight));
}

class Replacer {
 public:
  // Nothing: the layer stays.
  std::optional<torch::nn::AnyModule> twin_of(torch::nn::Module& module) {
    if (const auto found = made_.find(&module); found != made_.end()) return found->second;
    if (auto* layer = exactly<SharedLinearImpl>(module)) return make(*layer);
    if (auto* layer = exactly<SharedConv2dImpl>(module)) return make(*layer);
    if (auto* layer = exactly<SharedEmbeddingImpl>(module)) return make(*layer);
    return std::nullopt;
  }

 private:
  struct Made {
    at::Tensor codes, weight;
    bool has_zero;
  };

  template <class Layer>
  torch::nn::AnyModule make(Layer& layer) {
    const at::Tensor weight = weight_of(layer);
    auto dense = frame_of(layer, weight);
    set_parameter(*dense, "weight", dense->weight, weight);
    dense->weight.set_requires_grad(layer.codebook.requires_grad());
    if constexpr (requires { layer.bias; }) {
      if (layer.bias.defined()) set_parameter(*dense, "bias", dense->bias, layer.bias);
    }
    dense->train(layer.is_training());
    return made_.emplace(&layer, torch::nn::AnyModule(dense)).first->second;
  }

  // That of a layer which this one is tied to, or its own.
  template <class Layer>
  at::Tensor weight_of(const Layer& layer) {
    at::Tensor weight = layer.weight(layer.codebook.scalar_type());
    auto& others = of_codebook_[layer.codebook.unsafeGetTensorImpl()];
    for (const Made& other : others) {
      if (other.has_zero == layer.has_zero && other.weight.sizes() == weight.sizes() &&
          at::equal(other.codes, layer.codes)) {
        return other.weight;
      }
    }
    others.push_back({layer.codes, weight, layer.has_zero});
    return weight;
  }

  std::map<const torch::nn::Module*, torch::nn::AnyModule> made_;
  std::map<const c10::TensorImpl*, std::vector<Made>> of_codebook_;
};

}  // namespace

std::vector<std::string> to_dense_(torch::nn::Sequential& model) {
  const at::NoGradGuard no_grad;
  Replacer replacer;
  return replace_layers(model, [&](const std::string&, const torch::nn::AnyModule& layer) {
    return replacer.twin_of(*layer.ptr());
  });
}

}  // namespace pomona::nn
