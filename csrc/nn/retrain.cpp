#include "pomona/retrain.h"

#include "pomona/error.h"
#include "pomona/optim.h"
#include "pomona/patterns.h"

#include "base/text.h"

#include <torch/nn/modules/dropout.h>

#include <algorithm>
#include <unordered_map>

namespace pomona {
namespace {

using torch::nn::Module;

// The options of a dropout; nullptr for another module.
torch::nn::DropoutOptions* dropout_options(Module& module) {
  using namespace torch::nn;
  if (auto* plain = module.as<DropoutImpl>()) return &plain->options;
  if (auto* planes = module.as<Dropout2dImpl>()) return &planes->options;
  if (auto* volumes = module.as<Dropout3dImpl>()) return &volumes->options;
  if (auto* alpha = module.as<AlphaDropoutImpl>()) return &alpha->options;
  if (auto* feature = module.as<FeatureAlphaDropoutImpl>()) return &feature->options;
  return nullptr;
}

// How many weights of each parameter the masks leave.
using Left = std::unordered_map<const c10::TensorImpl*, int64_t>;

Left weights_left(const Module& model, const Pruner& pruner) {
  const auto parameters = model.named_parameters();
  Left left;
  for (size_t i = 0; i < pruner.names().size(); ++i) {
    const std::string& name = pruner.names()[i];
    const Mask& mask = pruner.masks()[i];
    const at::Tensor* weight = parameters.find(name);
    if (weight == nullptr || weight->numel() != mask.size()) {
      throw InvalidArgument(
          text("adjust_dropout_: expected `pruner` to be of this model, got one "
               "with ",
               mask.size(), " weights for `", name, "`, of which the model has ",
               weight == nullptr ? 0 : weight->numel(), "."));
    }
    left[weight->unsafeGetTensorImpl()] = mask.kept();
  }
  return left;
}

// The weights that a module itself holds; total 0: it is no layer.
Connections connections_of(const std::string& name, const Module& module, const Left& left) {
  Connections connections{name};
  for (const auto& weight : module.parameters(/*recurse=*/false)) {
    if (weight.dim() < 2) continue;
    const auto found = left.find(weight.unsafeGetTensorImpl());
    connections.left += found == left.end() ? weight.numel() : found->second;
    connections.total += weight.numel();
  }
  return connections;
}

struct Place {
  std::string name;
  torch::nn::DropoutOptions* options;
  std::vector<Connections> layers;
};

// The dropouts that come after a layer, each with the layers that it follows.
std::vector<Place> dropouts(const Module& model, const Left& left) {
  std::vector<Place> places;
  Connections last;
  for (const auto& item : model.named_modules()) {
    auto* options = dropout_options(*item.value());
    if (options == nullptr) {
      auto layer = connections_of(item.key(), *item.value(), left);
      if (layer.total > 0) last = std::move(layer);
    } else if (last.total > 0) {
      auto place = std::ranges::find(places, options, &Place::options);
      if (place == places.end()) place = places.insert(place, {item.key(), options, {}});
      place->layers.push_back(last);
    }
  }
  return places;
}

}  // namespace

std::vector<AdjustedDropout> adjust_dropout_(torch::nn::Sequential& model, const Pruner& pruner,
                                             std::span<const AdjustedDropout> earlier) {
  const auto places = dropouts(*model, weights_left(*model, pruner));
  if (places.empty()) {
    throw InvalidArgument(
        "adjust_dropout_: expected `model` to hold a torch::nn::Dropout after a layer, got none.");
  }
  std::vector<AdjustedDropout> adjusted;
  for (const auto& place : places) {
    const auto before = std::ranges::find(earlier, place.name, &AdjustedDropout::name);
    adjusted.push_back(adjust_dropout(place.name, place.options->p(), place.layers,
                                      before == earlier.end() ? nullptr : &*before));
  }
  for (size_t i = 0; i < places.size(); ++i) places[i].options->p(adjusted[i].adjusted);
  return adjusted;
}

Frozen::Frozen(Parameters parameters) {
  for (auto& [name, parameter] : parameters) {
    names_.push_back(name);
    flags_.emplace_back(parameter, parameter.requires_grad());
    parameter.requires_grad_(false);
    parameter.mutable_grad().reset();  // an optimizer would still use it
  }
}

Frozen::~Frozen() {
  undo();
}

Frozen::Frozen(Frozen&& other) noexcept
    : names_(std::move(other.names_)), flags_(std::exchange(other.flags_, {})) {}

void Frozen::undo() {
  for (auto& [parameter, requires_grad] : flags_) parameter.requires_grad_(requires_grad);
  flags_.clear();
}

Frozen freeze(const Module& model, const std::vector<std::string>& patterns) {
  if (patterns.empty()) {
    throw InvalidArgument("freeze: expected `patterns` to hold at least one, got none.");
  }
  const auto rows = pomona::parameters(model);
  const auto by_name = model.named_parameters();
  Frozen::Parameters chosen;
  for (const size_t i : match_parameters("freeze", rows, patterns)) {
    chosen.emplace_back(rows[i].name, by_name[rows[i].name]);
  }
  return Frozen(std::move(chosen));
}

}  // namespace pomona
