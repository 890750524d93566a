#include "pomona/optim.h"

#include "pomona/error.h"

#include "base/text.h"

#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <unordered_set>

namespace pomona {
namespace {

// torch::optim has no generic iteration over a parameter's state, so each type says what it holds.
// Unknown optimizers have none that we see: the weight and its gradient are still masked.
std::vector<State> state_of(const torch::optim::OptimizerParamState& state) {
  using namespace torch::optim;
  if (const auto* sgd = dynamic_cast<const SGDParamState*>(&state)) {
    return {{"momentum_buffer", sgd->momentum_buffer()}};
  }
  if (const auto* adam = dynamic_cast<const AdamParamState*>(&state)) {
    return {{"exp_avg", adam->exp_avg()},
            {"exp_avg_sq", adam->exp_avg_sq()},
            {"max_exp_avg_sq", adam->max_exp_avg_sq()}};
  }
  if (const auto* adamw = dynamic_cast<const AdamWParamState*>(&state)) {
    return {{"exp_avg", adamw->exp_avg()},
            {"exp_avg_sq", adamw->exp_avg_sq()},
            {"max_exp_avg_sq", adamw->max_exp_avg_sq()}};
  }
  if (const auto* rmsprop = dynamic_cast<const RMSpropParamState*>(&state)) {
    return {{"square_avg", rmsprop->square_avg()},
            {"momentum_buffer", rmsprop->momentum_buffer()},
            {"grad_avg", rmsprop->grad_avg()}};
  }
  if (const auto* adagrad = dynamic_cast<const AdagradParamState*>(&state)) {
    return {{"sum", adagrad->sum()}};
  }
  return {};
}

std::vector<State> defined_state_of(const torch::optim::Optimizer& optimizer,
                                    const at::Tensor& weight) {
  const auto found = optimizer.state().find(weight.unsafeGetTensorImpl());
  if (found == optimizer.state().end()) return {};
  std::vector<State> states = state_of(*found->second);
  std::erase_if(states, [](const State& state) { return !state.value.defined(); });
  return states;
}

std::unordered_set<const c10::TensorImpl*> held_by(const torch::optim::Optimizer& optimizer) {
  std::unordered_set<const c10::TensorImpl*> held;
  for (const auto& group : optimizer.param_groups()) {
    for (const auto& parameter : group.params()) held.insert(parameter.unsafeGetTensorImpl());
  }
  return held;
}

}  // namespace

std::vector<Parameter> parameters(const torch::nn::Module& model) {
  std::vector<Parameter> rows;
  std::unordered_set<const c10::TensorImpl*> seen;  // a tied parameter counts once
  for (const auto& item : model.named_parameters()) {
    const at::Tensor& weight = item.value();
    if (!seen.insert(weight.unsafeGetTensorImpl()).second) continue;
    rows.push_back({item.key(), weight.sizes().vec(), weight.is_floating_point()});
  }
  return rows;
}

std::vector<Live> live(const torch::nn::Module& model, const std::vector<std::string>& names,
                       torch::optim::Optimizer* optimizer) {
  const auto by_name = model.named_parameters();
  const auto held =
      optimizer != nullptr ? held_by(*optimizer) : std::unordered_set<const c10::TensorImpl*>();
  std::vector<std::string> missing, not_held;
  std::vector<Live> rows;
  for (const auto& name : names) {
    const at::Tensor* weight = by_name.find(name);
    if (weight == nullptr) {
      missing.push_back(name);
      continue;
    }
    rows.push_back({*weight, {}});
    if (optimizer == nullptr) continue;
    if (weight->requires_grad() && held.count(weight->unsafeGetTensorImpl()) == 0) {
      not_held.push_back(name);
    }
    rows.back().state = defined_state_of(*optimizer, *weight);
  }
  if (!missing.empty()) {
    throw InvalidArgument(
        text("live: expected `model` to hold every name, got one without: ", join(missing), "."));
  }
  if (!not_held.empty()) {
    throw InvalidArgument(
        text("live: expected `optimizer` to hold every parameter of `names`, got one without: ",
             join(not_held), "."));
  }
  return rows;
}

ScaledLr::ScaledLr(torch::optim::Optimizer& optimizer, double factor) : optimizer_(optimizer) {
  if (!(std::isfinite(factor) && factor > 0)) {
    throw InvalidArgument(
        text("ScaledLr: expected `factor` to be finite and above 0, got ", factor, "."));
  }
  auto& groups = optimizer_.param_groups();
  for (auto& group : groups) saved_.push_back(group.options().get_lr());
  for (size_t g = 0; g < groups.size(); ++g) groups[g].options().set_lr(saved_[g] * factor);
}

ScaledLr::~ScaledLr() {
  auto& groups = optimizer_.param_groups();
  for (size_t g = 0; g < saved_.size() && g < groups.size(); ++g) {
    groups[g].options().set_lr(saved_[g]);
  }
}

void step(torch::optim::Optimizer& optimizer, std::span<const Live> live, Pruner& pruner,
          double lr_factor) {
  pruner.before_step(live);
  {
    const ScaledLr scaled(optimizer, lr_factor);
    optimizer.step();
  }
  pruner.keep(live);
}

}  // namespace pomona
