#include "pomona/fisher.h"

#include "pomona/error.h"

#include "nn/eval_mode.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdint>
#include <map>
#include <vector>

namespace pomona {
namespace {

using Named = torch::OrderedDict<std::string, at::Tensor>;

// The sums of the squared gradients of each parameter, and of how many batches.
class SquaredGradients {
 public:
  explicit SquaredGradients(const Named& named) {
    for (const auto& item : named) {
      const at::Tensor& parameter = item.value();
      const auto [entry, is_new] = index_.emplace(parameter.unsafeGetTensorImpl(), sums_.size());
      if (!is_new) continue;  // a tied one counts once
      parameters_.push_back(parameter);
      sums_.push_back(at::zeros_like(parameter, parameter.options().dtype(at::kFloat)));
    }
  }

  void add(const at::Tensor& loss) {
    const auto gradients =
        torch::autograd::grad({loss}, parameters_, /*grad_outputs=*/{},
                              /*retain_graph=*/std::nullopt, /*create_graph=*/false,
                              /*allow_unused=*/true);
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (gradients[i].defined()) sums_[i] += gradients[i].to(at::kFloat).square();
    }
    ++count_;
  }

  int64_t count() const { return count_; }
  at::Tensor mean(const at::Tensor& parameter) const {
    return sums_[index_.at(parameter.unsafeGetTensorImpl())] / count_;
  }

 private:
  std::vector<at::Tensor> parameters_, sums_;
  std::map<const c10::TensorImpl*, size_t> index_;
  int64_t count_ = 0;
};

Named trainable(const torch::nn::Module& model) {
  Named found;
  for (const auto& item : model.named_parameters()) {
    if (item.value().requires_grad()) found.insert(item.key(), item.value());
  }
  return found;
}

}  // namespace

Named fisher(torch::nn::Module& model, const std::function<at::Tensor()>& next_loss) {
  const Named named = trainable(model);
  if (named.is_empty()) {
    throw InvalidArgument(
        "fisher: expected `model` to have parameters that require gradients, got none.");
  }
  SquaredGradients squares(named);
  {
    const nn::EvalMode eval(model);
    const at::AutoGradMode with_gradients(true);
    for (at::Tensor loss = next_loss(); loss.defined(); loss = next_loss()) squares.add(loss);
  }
  if (squares.count() == 0) {
    throw InvalidArgument("fisher: expected at least one batch, got none.");
  }
  Named means;
  for (const auto& item : named) means.insert(item.key(), squares.mean(item.value()));
  return means;
}

}  // namespace pomona
