#include "pomona/retrain.h"

#include "pomona/error.h"
#include "pomona/optim.h"

#include "error_of.h"

#include <ATen/ops/ones.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace {

using pomona::testing::error_of;
using torch::nn::Dropout;
using torch::nn::Linear;
using torch::nn::ReLU;
using torch::nn::Sequential;

// Two layers in a module of its own: a Sequential takes no other one.
struct BlockImpl : torch::nn::Module {
  BlockImpl() {
    register_module("fc", fc);
    register_module("drop", drop);
  }
  at::Tensor forward(const at::Tensor& x) { return drop->forward(fc->forward(x)); }
  Linear fc{8, 8};
  torch::nn::AlphaDropout drop{0.4};
};
TORCH_MODULE(Block);

Sequential network() {
  return Sequential(Dropout(0.1), Linear(8, 8), ReLU(), Dropout(0.5), Block(), Linear(8, 2));
}

pomona::Pruner pruned(Sequential& model, const pomona::Rules<pomona::Prune>& rules) {
  pomona::Pruner pruner(pomona::resolve<pomona::Prune>(pomona::parameters(*model), rules));
  pruner.step(pomona::live(*model, pruner.names()));
  return pruner;
}

double rate(Sequential& model, size_t i) {
  return model->at<torch::nn::DropoutImpl>(i).options.p();
}

TEST(AdjustDropout, EachRateFollowsTheLayerBeforeIt) {
  auto model = network();
  const auto rows = pomona::adjust_dropout_(model, pruned(model, {{"1", pomona::Prune{0.75}}}));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].name, "3");
  EXPECT_EQ(rows[0].original, 0.5);
  EXPECT_EQ(rows[0].adjusted, 0.25);
  EXPECT_EQ(rows[1].name, "4.drop");
  EXPECT_EQ(rows[1].adjusted, 0.4);
  EXPECT_EQ(rate(model, 3), 0.25);
  EXPECT_EQ(rate(model, 0), 0.1);
}

TEST(AdjustDropout, ASecondRoundStartsFromTheFirstRateUnlessItWasSetSince) {
  auto model = network();
  auto rows = pomona::adjust_dropout_(model, pruned(model, {{"1", pomona::Prune{0.75}}}));
  const auto further = pruned(model, {{"1", pomona::Prune{0.9375}}});
  rows = pomona::adjust_dropout_(model, further, rows);
  EXPECT_EQ(rows[0].original, 0.5);
  EXPECT_EQ(rate(model, 3), 0.125);
  model->at<torch::nn::DropoutImpl>(3).options.p(0.8);
  EXPECT_EQ(pomona::adjust_dropout_(model, further, rows)[0].adjusted, 0.2);
}

TEST(AdjustDropout, RefusesWhatItCannotDoAndChangesNothing) {
  const Dropout twice(0.5);
  Sequential model(Linear(8, 8), twice, Linear(8, 8), twice), bare(Linear(8, 2));
  const auto pruner = pruned(model, {{"0", pomona::Prune{0.75}}});
  EXPECT_EQ(error_of([&] { pomona::adjust_dropout_(model, pruner); }),
            "adjust_dropout_: expected each dropout of `model` to follow one layer, got `1` after "
            "0, 2, which are pruned differently. Give each layer a dropout of its own.");
  EXPECT_EQ(twice->options.p(), 0.5);
  EXPECT_EQ(error_of([&] { pomona::adjust_dropout_(bare, pruner); }),
            "adjust_dropout_: expected `pruner` to be of this model, got one with 64 weights for "
            "`0.weight`, of which the model has 16.");
  EXPECT_EQ(error_of([&] {
              pomona::adjust_dropout_(bare, pruned(bare, {{"*", {{0.5}}}}));
            }),
            "adjust_dropout_: expected `model` to hold a torch::nn::Dropout after a layer, got "
            "none.");
}

std::vector<std::string> trained(const Sequential& model) {
  std::vector<std::string> names;
  for (const auto& item : model->named_parameters()) {
    if (item.value().requires_grad()) names.push_back(item.key());
  }
  return names;
}

TEST(Freeze, HoldsALayerWithItsBiasUntilTheEndOfTheScope) {
  auto model = network();
  const auto every = trained(model);
  model->forward(at::ones({1, 8})).sum().backward();
  {
    const auto frozen = pomona::freeze(*model, {"1", "5.bias"});
    EXPECT_EQ(frozen.names(), (std::vector<std::string>{"1.weight", "1.bias", "5.bias"}));
    EXPECT_EQ(trained(model), (std::vector<std::string>{"4.fc.weight", "4.fc.bias", "5.weight"}));
    EXPECT_FALSE(model->at<torch::nn::LinearImpl>(1).weight.grad().defined());
    pomona::freeze(*model, {"*"}).undo();
    EXPECT_EQ(trained(model).size(), 3u);
  }
  EXPECT_EQ(trained(model), every);
}

TEST(Freeze, RefusesPatternsThatMatchNothing) {
  auto model = network();
  const auto every = trained(model);
  EXPECT_EQ(error_of([&] {
              const auto frozen = pomona::freeze(*model, {"1", "conv*"});
            }),
            "freeze: expected `conv*` to match a floating-point parameter, got no match among: "
            "1.weight, 1.bias, 4.fc.weight, 4.fc.bias, 5.weight, 5.bias.");
  EXPECT_EQ(error_of([&] { const auto frozen = pomona::freeze(*model, {}); }),
            "freeze: expected `patterns` to hold at least one, got none.");
  EXPECT_EQ(trained(model), every);
}

}  // namespace
