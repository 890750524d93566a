#include "pomona/optim.h"

#include "pomona/error.h"

#include "error_of.h"

#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

namespace {

using pomona::testing::error_of;
using torch::optim::Optimizer;

torch::nn::Sequential network() {
  return torch::nn::Sequential(torch::nn::Linear(12, 16), torch::nn::ReLU(),
                               torch::nn::Linear(16, 3));
}

pomona::Pruner pruner_of(torch::nn::Sequential& model, double sparsity = 0.6) {
  return pomona::Pruner(
      pomona::resolve<pomona::Prune>(pomona::parameters(*model), {{"*", pomona::Prune{sparsity}}}));
}

void train(torch::nn::Sequential& model, Optimizer& optimizer, pomona::Pruner& pruner, int steps) {
  for (int i = 0; i < steps; ++i) {
    optimizer.zero_grad();
    model->forward(at::randn({8, 12})).square().mean().backward();
    pomona::step(optimizer, pomona::live(*model, pruner.names(), &optimizer), pruner, 0.1);
  }
}

std::vector<std::unique_ptr<Optimizer>> optimizers(const std::vector<at::Tensor>& parameters) {
  using namespace torch::optim;
  std::vector<std::unique_ptr<Optimizer>> all;
  all.push_back(std::make_unique<SGD>(
      parameters, SGDOptions(0.1).momentum(0.9).nesterov(true).weight_decay(1e-3)));
  all.push_back(
      std::make_unique<Adam>(parameters, AdamOptions(1e-2).amsgrad(true).weight_decay(1e-3)));
  all.push_back(std::make_unique<AdamW>(parameters, AdamWOptions(1e-2)));
  all.push_back(std::make_unique<RMSprop>(
      parameters, RMSpropOptions(1e-3).centered(true).momentum(0.9).weight_decay(1e-3)));
  all.push_back(std::make_unique<Adagrad>(parameters, AdagradOptions(1e-2).weight_decay(1e-3)));
  return all;
}

TEST(Optim, MasksAndFirstMomentsStayExactUnderEveryOptimizer) {
  auto model = network();
  for (const auto& optimizer : optimizers(model->parameters())) {
    auto fresh = pruner_of(model, 0.0);
    train(model, *optimizer, fresh, 5);  // gives the optimizer a state
    auto pruner = pruner_of(model);
    pruner.step(pomona::live(*model, pruner.names(), optimizer.get()));
    train(model, *optimizer, pruner, 50);
    const auto live = pomona::live(*model, pruner.names(), optimizer.get());
    EXPECT_NO_THROW(pruner.check(live));
    for (size_t i = 0; i < live.size(); ++i) {
      const at::Tensor pruned = pruner.keep_mask(i, at::kCPU).logical_not();
      EXPECT_FALSE(live[i].state.empty());
      for (const auto& state : live[i].state) {
        if (pomona::moment_of(state.name) != pomona::Moment::kFirst) continue;
        EXPECT_EQ(state.value.masked_select(pruned).count_nonzero().item<int64_t>(), 0)
            << state.name;
      }
    }
  }
}

TEST(Optim, ParametersCountTiedWeightsOnce) {
  auto model = network();
  const size_t count = pomona::parameters(*model).size();
  auto& first = model->at<torch::nn::LinearImpl>(0);
  first.register_parameter("tied", first.weight);
  EXPECT_EQ(pomona::parameters(*model).size(), count);
}

TEST(Optim, LiveNamesWhatIsMissing) {
  auto model = network(), other = network();
  torch::optim::SGD optimizer(other->parameters(), 0.1);
  EXPECT_EQ(error_of([&] {
              pomona::live(*model, {"0.weight", "9.weight"});
            }),
            "live: expected `model` to hold every name, got one without: 9.weight.");
  EXPECT_EQ(error_of([&] { pomona::live(*model, {"0.weight"}, &optimizer); }),
            "live: expected `optimizer` to hold every parameter of `names`, got one without: "
            "0.weight.");
}

TEST(Optim, ScaledLrGivesTheRateBack) {
  auto model = network();
  torch::optim::SGD optimizer(model->parameters(), 0.5);
  auto& options = optimizer.param_groups()[0].options();
  {
    const pomona::ScaledLr scaled(optimizer, 0.1);
    EXPECT_DOUBLE_EQ(options.get_lr(), 0.05);
  }
  EXPECT_EQ(options.get_lr(), 0.5);
  EXPECT_EQ(error_of([&] { pomona::ScaledLr(optimizer, 0); }),
            "ScaledLr: expected `factor` to be finite and above 0, got 0.");
}

}  // namespace
