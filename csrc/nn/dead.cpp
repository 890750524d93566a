#include "pomona/dead.h"

#include "pomona/error.h"
#include "pomona/optim.h"

#include "base/text.h"
#include "nn/chain.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <torch/optim/lbfgs.h>
#include <torch/utils.h>

#include <algorithm>
#include <array>
#include <functional>

namespace pomona {
namespace {

// What is left along a dimension: indices, int64, CPU.
using Dims = std::map<int64_t, at::Tensor>;

// What becomes of one parameter or buffer; `values`, where defined, come in its place first.
struct Cut {
  std::string name;
  at::Tensor tensor;
  Dims dims;
  at::Tensor values{};
  double fill = 0;  // for who writes the original again
};

// What is to be done once nothing can fail any more.
using Acts = std::vector<std::function<void()>>;

at::Tensor sliced(const at::Tensor& tensor, const Dims& dims) {
  at::Tensor part = tensor.detach();
  const auto layout = part.suggest_memory_format();
  for (const auto& [dim, index] : dims) part = part.index_select(dim, index.to(part.device()));
  return part.contiguous(layout);
}

at::Tensor indices(const at::Tensor& which) {
  return which.nonzero().flatten();
}

// A graph that is still alive holds the node that accumulates a parameter's gradient, and the node
// remembers the parameter's shape. Torch makes a new one when the data change their dtype, so they
// go by way of an empty tensor of another.
void replace(const Cut& cut, const at::Tensor& values, const at::Tensor& grad) {
  const torch::NoGradGuard no_grad;
  at::Tensor tensor = cut.tensor;
  if (cut.dims.empty()) {
    tensor.data().copy_(values);
    return;
  }
  if (tensor.requires_grad()) tensor.mutable_grad().reset();
  const auto other = tensor.scalar_type() == at::kDouble ? at::kFloat : at::kDouble;
  tensor.set_data(at::empty({0}, tensor.options().dtype(other).requires_grad(false)));
  tensor.set_data(values);
  if (grad.defined()) tensor.mutable_grad() = grad;
}

void cut_norm(const DeadOperation& norm, const at::Tensor& alive, std::vector<Cut>& cuts) {
  const int64_t features = norm.weight.defined()         ? norm.weight.numel()
                           : norm.running_mean.defined() ? norm.running_mean.numel()
                                                         : alive.numel();
  const at::Tensor index = indices(alive.repeat_interleave(features / alive.numel()));
  struct Part {
    const char* attribute;
    at::Tensor tensor;
    double fill;
  };
  const std::array<Part, 4> parts{{{".weight", norm.weight, 1},
                                   {".bias", norm.bias, 0},
                                   {".running_mean", norm.running_mean, 0},
                                   {".running_var", norm.running_var, 1}}};
  for (const auto& [attribute, tensor, fill] : parts) {
    if (!tensor.defined()) continue;
    cuts.push_back({norm.name + attribute, tensor, {{0, index}}, {}, fill});
  }
}

// What becomes of each tensor that changes.
std::vector<Cut> cuts_of(const std::vector<DeadLayer>& layers, const DeadPlan& plan) {
  std::vector<Cut> cuts;
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto& layer = layers[i];
    const at::Tensor& alive = plan.alive()[i];
    const at::Tensor& bias = plan.biases()[i];
    const auto inputs = plan.inputs(i);
    const bool loses_rows = !alive.all().item<bool>();
    Dims dims;
    if (loses_rows) dims[0] = indices(alive);
    if (inputs && !inputs->all().item<bool>()) dims[1] = indices(*inputs);
    if (!dims.empty()) cuts.push_back({layer.name + ".weight", layer.weight, dims});
    if (bias.defined() && (loses_rows || !bias.equal(layer.bias))) {
      cuts.push_back({layer.name + ".bias", layer.bias, {}, bias});
      if (loses_rows) cuts.back().dims[0] = dims[0];
    }
    for (const auto& operation : layer.operations) {
      const bool is_norm = operation.kind == DeadOperation::Kind::kNorm;
      if (is_norm && loses_rows) cut_norm(operation, alive, cuts);
    }
  }
  return cuts;
}

void check_pruner(const torch::nn::Module& model, const Pruner& pruner) {
  const auto parameters = model.named_parameters();
  for (size_t i = 0; i < pruner.names().size(); ++i) {
    const auto& name = pruner.names()[i];
    const at::Tensor* weight = parameters.find(name);
    if (weight == nullptr || weight->numel() != pruner.masks()[i].size()) {
      throw InvalidArgument(
          text("remove_dead_: expected `pruners` to be of this model, got one "
               "with ",
               pruner.masks()[i].size(), " weights for `", name, "`, of which the model has ",
               weight == nullptr ? 0 : weight->numel(), "."));
    }
  }
}

void check(const torch::nn::Module& model, const Removing& removing) {
  for (const Pruner* pruner : removing.pruners) {
    if (pruner == nullptr) {
      throw InvalidArgument("remove_dead_: expected `pruners` to be Pruner objects, got nullptr.");
    }
    check_pruner(model, *pruner);
  }
  const auto* lbfgs = dynamic_cast<torch::optim::LBFGS*>(removing.optimizer);
  if (lbfgs != nullptr && !lbfgs->state().empty()) {
    throw InvalidArgument(
        "remove_dead_: expected `optimizer` to hold state of the parameters' shapes, got LBFGS, "
        "which holds one long vector. Make a new one after the removal.");
  }
}

// The masks of the vectors that pruners hold, by name.
std::map<std::string, at::Tensor> masks_of_biases(const std::vector<Pruner*>& pruners) {
  std::map<std::string, at::Tensor> masks;
  for (const Pruner* pruner : pruners) {
    for (size_t i = 0; i < pruner->names().size(); ++i) {
      const at::Tensor mask = pruner->keep_mask(i, at::kCPU);
      if (mask.dim() == 1) masks[pruner->names()[i]] = mask;
    }
  }
  return masks;
}

// Masks and optimizer state follow a cut; nothing changes yet.
void plan_followers(const Cut& cut, const torch::nn::Module& model, const Removing& removing,
                    Acts& acts) {
  for (Pruner* pruner : removing.pruners) {
    const auto& names = pruner->names();
    const auto found = std::ranges::find(names, cut.name);
    if (found == names.end()) continue;
    const auto i = static_cast<size_t>(found - names.begin());
    for (const auto& [dim, index] : cut.dims) {
      const std::vector<int64_t> kept(index.const_data_ptr<int64_t>(),
                                      index.const_data_ptr<int64_t>() + index.numel());
      acts.push_back([pruner, i, dim = dim, kept] { pruner->narrow(i, dim, kept); });
    }
  }
  const bool is_parameter = model.named_parameters().contains(cut.name);
  if (removing.optimizer == nullptr || !is_parameter) return;
  const auto rows = live(model, {cut.name}, removing.optimizer);
  for (const auto& state : rows[0].state) {
    if (state.value.sizes() != cut.tensor.sizes()) continue;  // a number
    acts.push_back([value = state.value, smaller = sliced(state.value, cut.dims)]() mutable {
      value.set_data(smaller);
    });
  }
}

Removal removal_of(const std::vector<Cut>& cuts, const DeadPlan& plan) {
  Removal removal{plan.rows(), {}};
  for (const auto& cut : cuts) {
    if (cut.dims.empty()) continue;
    Kept kept{cut.name, cut.tensor.sizes().vec(), {}, cut.fill};
    for (const auto& [dim, index] : cut.dims) {
      const int64_t* first = index.const_data_ptr<int64_t>();
      kept.indices[dim] = {first, first + index.numel()};
    }
    removal.tensors.push_back(std::move(kept));
  }
  return removal;
}

std::vector<int64_t> small_shape(const Kept& kept) {
  auto shape = kept.shape;
  for (const auto& [dim, indices] : kept.indices) {
    shape[static_cast<size_t>(dim)] = std::ssize(indices);
  }
  return shape;
}

at::Tensor expanded(const Kept& kept, at::Tensor tensor) {
  for (const auto& [dim, indices] : kept.indices) {
    auto shape = tensor.sizes().vec();
    shape[static_cast<size_t>(dim)] = kept.shape[static_cast<size_t>(dim)];
    const at::Tensor index = at::tensor(indices, at::kLong).to(tensor.device());
    tensor = at::full(shape, kept.fill, tensor.options()).index_copy_(dim, index, tensor);
  }
  return tensor;
}

// A cut, and then another of what was left.
Kept composed(const Kept& first, const Kept& later) {
  Kept both = first;
  for (const auto& [dim, indices] : later.indices) {
    auto& kept = both.indices[dim];
    std::vector<int64_t> left;
    for (const int64_t i : indices) {
      left.push_back(first.indices.contains(dim) ? kept[static_cast<size_t>(i)] : i);
    }
    kept = std::move(left);
  }
  return both;
}

}  // namespace

std::vector<std::pair<std::string, at::Tensor>> Removal::expand(
    const std::vector<std::pair<std::string, at::Tensor>>& small) const {
  const torch::NoGradGuard no_grad;
  auto whole = small;
  for (const auto& kept : tensors) {
    const auto found =
        std::ranges::find(whole, kept.name, [](const auto& row) { return row.first; });
    const auto shape = small_shape(kept);
    if (found == whole.end() || found->second.sizes() != at::IntArrayRef(shape)) {
      throw InvalidArgument(text("Removal.expand: expected `small` to hold `", kept.name,
                                 "` of shape ", at::IntArrayRef(shape), ", got ",
                                 found == whole.end() ? std::string("no such tensor")
                                                      : text("shape ", found->second.sizes()),
                                 ". They are the tensors just after the removal; of several "
                                 "removals, join them by then()."));
    }
    found->second = expanded(kept, found->second.detach());
  }
  return whole;
}

Removal Removal::then(const Removal& later) const {
  Removal both = later;
  both.tensors = tensors;
  for (const auto& kept : later.tensors) {
    const auto found = std::ranges::find(both.tensors, kept.name, &Kept::name);
    if (found == both.tensors.end()) {
      both.tensors.push_back(kept);
      continue;
    }
    if (small_shape(*found) != kept.shape) {
      throw InvalidArgument(
          text("Removal.then: expected `later` to begin where this removal ended, got `", kept.name,
               "` of shape ", at::IntArrayRef(kept.shape), " after ",
               at::IntArrayRef(small_shape(*found)), "."));
    }
    *found = composed(*found, kept);
  }
  for (auto& row : both.report) {
    const auto before = std::ranges::find(report, row.layer, &DeadRow::layer);
    if (before == report.end()) continue;
    row.neurons = before->neurons;
    row.removed += before->removed;
  }
  return both;
}

std::vector<DeadRow> dead_neurons(torch::nn::Sequential& model, const at::Tensor& example) {
  const auto links = nn::run_links(*model, example, "dead_neurons");
  return DeadPlan(nn::find_layers(*model, links), {}).rows();
}

Removal remove_dead_(torch::nn::Sequential& model, const at::Tensor& example,
                     const Removing& removing) {
  check(*model, removing);
  const auto links = nn::run_links(*model, example, "remove_dead_");
  const auto layers = nn::find_layers(*model, links);
  const DeadPlan plan(layers, masks_of_biases(removing.pruners));
  const auto cuts = cuts_of(layers, plan);
  Acts acts;
  for (const auto& cut : cuts) {
    plan_followers(cut, *model, removing, acts);
    const at::Tensor values = sliced(cut.values.defined() ? cut.values : cut.tensor, cut.dims);
    const at::Tensor& grad = cut.tensor.grad();
    acts.push_back([cut, values, smaller = grad.defined() ? sliced(grad, cut.dims) : grad] {
      replace(cut, values, smaller);
    });
  }
  Removal removal = removal_of(cuts, plan);
  for (const auto& act : acts) act();
  for (const auto& link : links) nn::resize(*link.module->ptr());
  return removal;
}

}  // namespace pomona
