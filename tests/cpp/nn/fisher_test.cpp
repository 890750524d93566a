#include "pomona/fisher.h"

#include "pomona/error.h"
#include "pomona/optim.h"

#include "error_of.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace {

using pomona::testing::error_of;
torch::nn::Sequential network() {
  torch::manual_seed(0);
  return torch::nn::Sequential(torch::nn::Linear(6, 5), torch::nn::Dropout(0.5), torch::nn::Tanh(),
                               torch::nn::Linear(5, 3));
}

std::vector<at::Tensor> batches(int count = 4) {
  torch::manual_seed(1);
  std::vector<at::Tensor> inputs;
  for (int i = 0; i < count; ++i) inputs.push_back(at::randn({8, 6}));
  return inputs;
}

// Runs the model over the batches, one a call.
auto losses(torch::nn::Sequential& model, const std::vector<at::Tensor>& inputs) {
  return [&model, &inputs, next = size_t{0}]() mutable {
    if (next == inputs.size()) return at::Tensor();
    return model->forward(inputs[next++]).square().mean();
  };
}

TEST(Fisher, IsTheMeanOfSquaredGradients) {
  auto model = network();
  const auto inputs = batches();
  const auto found = pomona::fisher(*model, losses(model, inputs));
  model->eval();  // without dropout
  std::vector<at::Tensor> expected;
  for (const at::Tensor& parameter : model->parameters()) {
    expected.push_back(at::zeros_like(parameter));
  }
  for (const at::Tensor& input : inputs) {
    model->zero_grad();
    model->forward(input).square().mean().backward();
    for (size_t i = 0; i < expected.size(); ++i) {
      expected[i] += model->parameters()[i].grad().square() / 4;
    }
  }
  ASSERT_EQ(found.keys(), model->named_parameters().keys());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(at::allclose(found[i].value(), expected[i])) << found[i].key();
  }
}

TEST(Fisher, ChangesNothing) {
  auto model = network();
  const auto inputs = batches();
  auto weight = model->parameters()[0];
  weight.mutable_grad() = at::ones({5, 6});
  const at::Tensor before = weight.detach().clone();
  {
    const at::NoGradGuard no_grad;  // it opens gradients for itself
    pomona::fisher(*model, losses(model, inputs));
  }
  for (const auto& module : model->modules()) EXPECT_TRUE(module->is_training());
  EXPECT_TRUE(at::equal(weight.grad(), at::ones({5, 6})));
  EXPECT_TRUE(at::equal(weight, before));
  EXPECT_FALSE(model->parameters()[2].grad().defined());
}

TEST(Fisher, IsFloat32AndByEveryNameOfATiedParameterAndZeroForAnUnusedOne) {
  const torch::nn::Linear tied(6, 6), unused(2, 2);
  torch::nn::Sequential model(tied, torch::nn::Tanh(), tied);
  model->register_module("unused", unused.ptr());
  model->to(at::kDouble);
  const std::vector<at::Tensor> inputs = {batches()[0].to(at::kDouble)};
  const auto found = pomona::fisher(*model, losses(model, inputs));
  EXPECT_EQ(found["0.weight"].scalar_type(), at::kFloat);
  EXPECT_TRUE(found["0.weight"].any().item<bool>());
  EXPECT_TRUE(at::equal(found["0.weight"], found["2.weight"]));
  EXPECT_FALSE(found["unused.weight"].any().item<bool>());
}

TEST(Fisher, IsTheImportanceThatASharerTakes) {
  auto model = network();
  const auto inputs = batches();
  const auto found = pomona::fisher(*model, losses(model, inputs));
  pomona::Sharer sharer(
      pomona::resolve<pomona::Share>(pomona::parameters(*model), {{"*", pomona::Share{2}}}));
  std::vector<at::Tensor> importance;
  for (const auto& name : sharer.names()) importance.push_back(found[name]);
  EXPECT_TRUE(sharer.assign(pomona::live(*model, sharer.names()), importance));
}

TEST(Fisher, RefusesNoBatchesAndNoParameters) {
  auto model = network();
  const std::vector<at::Tensor> none, inputs = batches();
  EXPECT_EQ(error_of([&] { pomona::fisher(*model, losses(model, none)); }),
            "fisher: expected at least one batch, got none.");
  for (auto& parameter : model->parameters()) parameter.set_requires_grad(false);
  EXPECT_EQ(error_of([&] { pomona::fisher(*model, losses(model, inputs)); }),
            "fisher: expected `model` to have parameters that require gradients, got none.");
}

TEST(Fisher, GivesTheModeBackWhenALossHasNoGradients) {
  auto model = network();
  try {
    pomona::fisher(*model, [] { return at::ones({}); });
    FAIL() << "a loss without gradients was taken";
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what()).find("does not require grad"), std::string::npos);
  }
  for (const auto& module : model->modules()) EXPECT_TRUE(module->is_training());
}

}  // namespace
