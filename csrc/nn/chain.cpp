#include "nn/chain.h"

#include "pomona/error.h"

#include "base/text.h"
#include "nn/eval_mode.h"

#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/pooling.h>
#include <torch/utils.h>

#include <algorithm>
#include <map>
#include <optional>
#include <typeindex>
#include <unordered_set>

namespace pomona::nn {
namespace {

using torch::nn::Module;

template <class... Modules>
bool is_one_of(const Module& module) {
  return ((typeid(module) == typeid(Modules)) || ...);
}

bool is_element(const Module& module) {
  using namespace torch::nn;
  if (const auto* prelu = module.as<PReLUImpl>()) return prelu->options.num_parameters() == 1;
  return is_one_of<IdentityImpl, ReLUImpl, ReLU6Impl, LeakyReLUImpl, ELUImpl, SELUImpl, CELUImpl,
                   GELUImpl, SiLUImpl, MishImpl, SigmoidImpl, LogSigmoidImpl, TanhImpl,
                   SoftplusImpl, SoftsignImpl, HardtanhImpl, TanhshrinkImpl, SoftshrinkImpl,
                   HardshrinkImpl, ThresholdImpl>(module);
}

// How many dimensions of positions a pool works on; 0: it is none.
size_t pool_dimensions(const Module& module) {
  using namespace torch::nn;
  if (is_one_of<MaxPool1dImpl, AvgPool1dImpl, AdaptiveMaxPool1dImpl, AdaptiveAvgPool1dImpl>(
          module)) {
    return 1;
  }
  if (is_one_of<MaxPool2dImpl, AvgPool2dImpl, AdaptiveMaxPool2dImpl, AdaptiveAvgPool2dImpl>(
          module)) {
    return 2;
  }
  return is_one_of<MaxPool3dImpl, AvgPool3dImpl, AdaptiveMaxPool3dImpl, AdaptiveAvgPool3dImpl>(
             module)
             ? 3
             : 0;
}

// What a layer's module says of itself; `dimensions` of positions, 0: Linear.
struct LayerFacts {
  at::Tensor weight, bias;
  size_t dimensions = 0;
  bool pads_with_zeros = false;
  int64_t groups = 1;
};

template <class Conv, size_t D>
std::optional<LayerFacts> convolution_facts(const Module& module) {
  const auto* conv = module.as<Conv>();
  if (conv == nullptr) return std::nullopt;
  const auto& options = conv->options;
  bool pads = false;
  for (size_t d = 0; d < D; ++d) {
    if (const auto* sizes = std::get_if<torch::ExpandingArray<D>>(&options.padding())) {
      pads |= (**sizes)[d] > 0;
    } else if (std::holds_alternative<torch::enumtype::kSame>(options.padding())) {
      pads |= (*options.dilation())[d] * ((*options.kernel_size())[d] - 1) > 0;
    }
  }
  pads &= std::holds_alternative<torch::enumtype::kZeros>(options.padding_mode());
  return LayerFacts{conv->weight, conv->bias, D, pads, options.groups()};
}

std::optional<LayerFacts> layer_facts(const Module& module) {
  using namespace torch::nn;
  if (const auto* linear = module.as<LinearImpl>()) {
    return LayerFacts{linear->weight, linear->bias};
  }
  if (auto facts = convolution_facts<Conv1dImpl, 1>(module)) return facts;
  if (auto facts = convolution_facts<Conv2dImpl, 2>(module)) return facts;
  if (auto facts = convolution_facts<Conv3dImpl, 3>(module)) return facts;
  return std::nullopt;
}

template <class Norm>
bool fill_norm(const Module& module, DeadOperation& operation) {
  const auto* norm = module.as<Norm>();
  if (norm == nullptr) return false;
  operation.kind = DeadOperation::Kind::kNorm;
  operation.running_mean = norm->running_mean;
  operation.running_var = norm->running_var;
  operation.weight = norm->weight;
  operation.bias = norm->bias;
  operation.eps = norm->options.eps();
  operation.is_training = norm->is_training();
  return true;
}

// What a module between two layers does; nothing when it is not known.
std::optional<DeadOperation> operation_of(const Link& link) {
  using namespace torch::nn;
  using Kind = DeadOperation::Kind;
  const Module& module = *link.module->ptr();
  DeadOperation operation{.name = link.name, .shape = link.shape};
  operation.run = [any = link.module](const at::Tensor& input) { return any->forward(input); };
  if (fill_norm<BatchNorm1dImpl>(module, operation) ||
      fill_norm<BatchNorm2dImpl>(module, operation) ||
      fill_norm<BatchNorm3dImpl>(module, operation)) {
    return operation;
  }
  if (is_element(module)) return operation;
  const auto* flatten = module.as<FlattenImpl>();
  if (pool_dimensions(module) > 0) {
    operation.kind = Kind::kPool;
  } else if (is_one_of<DropoutImpl, Dropout2dImpl, Dropout3dImpl>(module)) {
    operation.kind = Kind::kDropout;
  } else if (flatten && flatten->options.start_dim() == 1 && flatten->options.end_dim() == -1) {
    operation.kind = Kind::kFlat;
  } else {
    return std::nullopt;
  }
  return operation;
}

int64_t product(const std::vector<int64_t>& shape, size_t from) {
  int64_t count = 1;
  for (size_t d = from; d < shape.size(); ++d) count *= shape[d];
  return count;
}

// Where the neurons are after an operation, given where they were; nothing when they are mixed.
// A flatten lays the positions of each side by side: `spread` grows.
std::optional<size_t> axis_after(const Link& link, const DeadOperation& operation, size_t axis,
                                 int64_t neurons, int64_t& spread) {
  const size_t rank = link.shape.size();
  switch (operation.kind) {
    case DeadOperation::Kind::kNorm: {
      const int64_t features = link.shape.size() > 1 ? link.shape[1] : 0;
      if (axis != 1 || features != neurons * spread) return std::nullopt;
      return axis;
    }
    case DeadOperation::Kind::kPool:
      if (axis != 1 || rank != pool_dimensions(*link.module->ptr()) + 2) return std::nullopt;
      return axis;
    case DeadOperation::Kind::kFlat:
      if (axis != 1 || link.shape_after.size() != 2) return std::nullopt;
      spread *= product(link.shape, 2);
      return axis;
    default:
      return axis;
  }
}

class Chains {
 public:
  Chains(const Module& model, const std::vector<Link>& links) : links_(links) {
    for (const auto& link : links) ++calls_[link.module->ptr().get()];
    for (const auto& weight : model.parameters()) ++names_[weight.unsafeGetTensorImpl()];
  }

  // The layer of link i, with the chain that begins there.
  DeadLayer layer(size_t i, const LayerFacts& facts) const {
    DeadLayer layer{.name = links_[i].name,
                    .weight = facts.weight,
                    .bias = facts.bias,
                    .pads_with_zeros = facts.pads_with_zeros,
                    .why = why_fixed(i)};
    if (layer.why.empty()) layer.why = follow(i, facts, layer);
    if (!layer.why.empty()) layer.operations.clear();
    return layer;
  }

 private:
  // Why nothing may be cut from this module; empty when it may.
  std::string why_fixed(size_t i) const {
    const Module& module = *links_[i].module->ptr();
    if (const auto facts = layer_facts(module); facts && facts->groups != 1) {
      return text("it has ", facts->groups, " groups");
    }
    for (const auto& weight : module.parameters(/*recurse=*/false)) {
      // A module that stands twice is no tie: it is called twice.
      const auto& calls = calls_.at(&module);
      if (names_.at(weight.unsafeGetTensorImpl()) > calls) return "its weights are tied";
    }
    const int count = calls_.at(&module);
    return count == 1 ? "" : text("the model calls it ", count, " times");
  }

  // Fills in operations, consumer and spread; why the neurons must stay, or nothing.
  std::string follow(size_t i, const LayerFacts& facts, DeadLayer& layer) const {
    const size_t rank = links_[i].shape_after.size();
    if (facts.dimensions > 0 ? rank != facts.dimensions + 2 : rank < 2) {
      return "the example has no batch dimension";
    }
    size_t axis = facts.dimensions > 0 ? 1 : rank - 1;
    for (size_t j = i + 1; j < links_.size(); ++j) {
      if (const auto consumer = layer_facts(*links_[j].module->ptr())) {
        return reach(j, *consumer, axis, layer);
      }
      auto operation = operation_of(links_[j]);
      const bool is_norm = operation && operation->kind == DeadOperation::Kind::kNorm;
      if (!operation || (is_norm && !why_fixed(j).empty())) {
        return text("it goes through `", links_[j].name, "`");
      }
      const auto after =
          axis_after(links_[j], *operation, axis, layer.weight.size(0), layer.spread);
      if (!after) return text("`", links_[j].name, "` does not keep its neurons apart");
      axis = *after;
      layer.operations.push_back(std::move(*operation));
    }
    return "the model returns it";
  }

  std::string reach(size_t j, const LayerFacts& consumer, size_t axis, DeadLayer& layer) const {
    if (const std::string why = why_fixed(j); !why.empty()) {
      return text("of its consumer `", links_[j].name, "`: ", why);
    }
    const size_t rank = links_[j].shape.size();
    const bool is_there =
        consumer.dimensions > 0 ? axis == 1 && rank == consumer.dimensions + 2 : axis == rank - 1;
    if (!is_there || consumer.weight.size(1) != layer.weight.size(0) * layer.spread) {
      return text("`", links_[j].name, "` does not keep its neurons apart");
    }
    layer.consumer = links_[j].name;
    return "";
  }

  const std::vector<Link>& links_;
  std::map<const Module*, int> calls_;
  std::map<const c10::TensorImpl*, int> names_;
};

template <class Conv>
bool resize_convolution(Module& module) {
  auto* conv = module.as<Conv>();
  if (conv == nullptr) return false;
  conv->options.out_channels(conv->weight.size(0)).in_channels(conv->weight.size(1));
  return true;
}

template <class Norm>
bool resize_norm(Module& module) {
  auto* norm = module.as<Norm>();
  if (norm == nullptr) return false;
  const at::Tensor& any = norm->weight.defined() ? norm->weight : norm->running_mean;
  if (any.defined()) norm->options.num_features(any.size(0));
  return true;
}

}  // namespace

std::vector<Link> run_links(torch::nn::SequentialImpl& model, const at::Tensor& example,
                            const char* what) {
  const auto names = model.named_children().keys();
  std::vector<Link> links;
  for (size_t i = 0; i < model.size(); ++i) {
    links.push_back({names[i], &*(model.begin() + static_cast<std::ptrdiff_t>(i)), {}, {}});
  }
  const torch::NoGradGuard no_grad;
  const EvalMode eval(model);
  at::Tensor value = example;
  for (auto& link : links) {
    link.shape = value.sizes().vec();
    try {
      value = link.module->forward(value);
    } catch (const c10::Error& error) {
      throw InvalidArgument(text(
          what, ": expected `example` to be an input of the model, got shape ", example.sizes(),
          ", with which `", link.name, "` fails (", error.what_without_backtrace(), ")."));
    }
    link.shape_after = value.sizes().vec();
  }
  return links;
}

std::vector<DeadLayer> find_layers(const torch::nn::Module& model, const std::vector<Link>& links) {
  const Chains chains(model, links);
  std::vector<DeadLayer> layers;
  std::unordered_set<const Module*> seen;
  for (size_t i = 0; i < links.size(); ++i) {
    const Module& module = *links[i].module->ptr();
    const auto facts = layer_facts(module);
    if (facts && seen.insert(&module).second) layers.push_back(chains.layer(i, *facts));
  }
  return layers;
}

void resize(torch::nn::Module& module) {
  using namespace torch::nn;
  if (auto* linear = module.as<LinearImpl>()) {
    linear->options.out_features(linear->weight.size(0)).in_features(linear->weight.size(1));
    return;
  }
  (void)(resize_convolution<Conv1dImpl>(module) || resize_convolution<Conv2dImpl>(module) ||
         resize_convolution<Conv3dImpl>(module) || resize_norm<BatchNorm1dImpl>(module) ||
         resize_norm<BatchNorm2dImpl>(module) || resize_norm<BatchNorm3dImpl>(module));
}

}  // namespace pomona::nn
