#include "pomona/error.h"
#include "pomona/nn.h"
#include "pomona/optim.h"

#include "error_of.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace {

using pomona::Share;
using pomona::Sharer;
using pomona::nn::to_dense_;
using pomona::nn::to_layers_;
using pomona::testing::error_of;
using Names = std::vector<std::string>;
using torch::nn::Sequential;

Sequential image() {
  return Sequential(
      torch::nn::Conv2d(
          torch::nn::Conv2dOptions(2, 4, 3).padding(1).padding_mode(torch::kCircular)),
      torch::nn::ReLU(), torch::nn::Conv2d(torch::nn::Conv2dOptions(4, 4, 3).groups(2).bias(false)),
      torch::nn::Flatten(), torch::nn::Linear(64, 3));
}

// A head tied to the embedding: its forward() reads the table's weight.
Sequential language() {
  torch::nn::Embedding table(torch::nn::EmbeddingOptions(11, 8).padding_idx(0));
  torch::nn::Linear head(8, 11);
  head->weight = table->weight;
  return Sequential(table, torch::nn::Linear(8, 8), head);
}

Sharer shared(Sequential& model, Share rule = {3}, const std::string& pattern = "*") {
  Sharer sharer(pomona::resolve<Share>(pomona::parameters(*model), {{pattern, rule}}));
  sharer.assign(pomona::live(*model, sharer.names()));
  return sharer;
}

template <class Layer>
Layer& layer_of(Sequential& model, size_t i) {
  return dynamic_cast<Layer&>(*model->ptr(i));
}

using pomona::nn::SharedConv2dImpl;
using pomona::nn::SharedEmbeddingImpl;
using pomona::nn::SharedLinearImpl;

TEST(ToLayers, ThereAndBackKeepsOutputsNamesAndValues) {
  auto model = image();
  const auto sharer = shared(model);
  const at::Tensor x = at::randn({2, 2, 6, 6}), expected = model->forward(x);
  const auto before = model->named_parameters();
  EXPECT_EQ(to_layers_(model, sharer), (Names{"0", "2", "4"}));
  EXPECT_NO_THROW(layer_of<SharedConv2dImpl>(model, 0));
  EXPECT_NO_THROW(layer_of<SharedConv2dImpl>(model, 2));
  EXPECT_NO_THROW(layer_of<SharedLinearImpl>(model, 4));
  EXPECT_TRUE(at::equal(model->forward(x), expected));
  EXPECT_EQ(to_dense_(model), (Names{"0", "2", "4"}));
  EXPECT_TRUE(at::equal(model->forward(x), expected));
  const auto after = model->named_parameters();
  ASSERT_EQ(after.keys(), before.keys());
  for (const auto& item : after) EXPECT_TRUE(at::equal(item.value(), before[item.key()]));
  EXPECT_TRUE(after["4.bias"].is_same(before["4.bias"]));
}

TEST(ToLayers, ATiedEmbeddingAndHeadShareACodebookAndAreTiedAgain) {
  auto model = language();
  const auto sharer = shared(model);
  const at::Tensor x = at::randint(0, 11, {2, 5}, at::kLong), expected = model->forward(x);
  EXPECT_EQ(to_layers_(model, sharer), (Names{"0", "1", "2"}));
  auto& table = layer_of<SharedEmbeddingImpl>(model, 0);
  auto& head = layer_of<SharedLinearImpl>(model, 2);
  EXPECT_TRUE(head.codebook.is_same(table.codebook));
  EXPECT_TRUE(model->named_parameters()["2.codebook"].is_same(table.codebook));
  EXPECT_EQ(head.codes.data_ptr(), table.codes.data_ptr());
  EXPECT_TRUE(at::equal(model->forward(x), expected));
  to_dense_(model);
  const auto weight = layer_of<torch::nn::EmbeddingImpl>(model, 0).weight;
  EXPECT_TRUE(layer_of<torch::nn::LinearImpl>(model, 2).weight.is_same(weight));
  EXPECT_TRUE(model->named_parameters()["0.weight"].is_same(weight));
  EXPECT_TRUE(model->named_parameters()["2.weight"].is_same(weight));
  EXPECT_TRUE(at::equal(model->forward(x), expected));
}

TEST(ToLayers, ALayerThatStandsTwiceBecomesOne) {
  const torch::nn::Linear twice(4, 4);
  Sequential model(twice, torch::nn::ReLU(), twice);
  EXPECT_EQ(to_layers_(model, shared(model)), (Names{"0", "2"}));
  EXPECT_EQ(model->ptr(0), model->ptr(2));
  EXPECT_EQ(to_dense_(model), (Names{"0", "2"}));
  EXPECT_EQ(model->ptr(0), model->ptr(2));
}

TEST(ToLayers, TrainsTheCodebookWithTheGradientOfTheThesis) {
  auto model = image();
  const auto sharer = shared(model);
  const at::Tensor x = at::randn({2, 2, 6, 6});
  model->forward(x).square().mean().backward();
  const at::Tensor dense = layer_of<torch::nn::LinearImpl>(model, 4).weight.grad();
  const at::Tensor codes = sharer.codes(sharer.names().size() - 1).flatten();
  const at::Tensor expected = pomona::centroid_grad(dense, codes, 8);
  to_layers_(model, sharer);
  model->forward(x).square().mean().backward();
  EXPECT_TRUE(at::equal(layer_of<SharedLinearImpl>(model, 4).codebook.grad(), expected));
}

TEST(ToLayers, KeepsZerosModesFrozenWeightsAndDTypes) {
  auto model = image();
  auto& linear = layer_of<torch::nn::LinearImpl>(model, 4);
  {
    const at::NoGradGuard no_grad;
    linear.weight.slice(1, 0, 40).zero_();
  }
  model->to(at::kDouble);
  linear.weight.set_requires_grad(false);
  linear.eval();
  const auto sharer = shared(model);
  const at::Tensor weight = linear.weight;
  to_layers_(model, sharer);
  auto& layer = layer_of<SharedLinearImpl>(model, 4);
  EXPECT_TRUE(layer.has_zero);
  EXPECT_FALSE(layer.is_training());
  EXPECT_FALSE(layer.codebook.requires_grad());
  EXPECT_TRUE(at::equal(layer.weight(), weight));
  to_dense_(model);
  auto& dense = layer_of<torch::nn::LinearImpl>(model, 4);
  EXPECT_FALSE(dense.is_training());
  EXPECT_FALSE(dense.weight.requires_grad());
  EXPECT_TRUE(at::equal(dense.weight, weight));
  EXPECT_EQ(dense.weight.scalar_type(), at::kDouble);
}

TEST(ToLayers, CentroidsThatMeetStayTwo) {
  auto model = image();
  const auto sharer = shared(model, {1}, "4");
  {
    const at::NoGradGuard no_grad;
    layer_of<torch::nn::LinearImpl>(model, 4).weight.fill_(0.5);
  }
  EXPECT_EQ(to_layers_(model, sharer), Names{"4"});
  EXPECT_EQ(layer_of<SharedLinearImpl>(model, 4).codebook.numel(), 2);
}

// A module that holds a layer of the Sequential as well.
struct Holder : torch::nn::Module {
  explicit Holder(const torch::nn::Linear& linear) { register_module("inner", linear); }
  at::Tensor forward(const at::Tensor& x) { return x; }
};

struct MyLinear : torch::nn::LinearImpl {
  using torch::nn::LinearImpl::LinearImpl;
};

TEST(ToLayers, LeavesWhatIsNotExactlySuchALayerAndWhatItIsTiedTo) {
  torch::nn::Linear held(4, 4), tied(4, 4);
  const auto mine = std::make_shared<MyLinear>(4, 4);
  tied->weight = mine->weight;
  const torch::nn::Embedding scaled(torch::nn::EmbeddingOptions(5, 4).scale_grad_by_freq(true));
  Sequential model(scaled, held, mine, tied, std::make_shared<Holder>(held));
  EXPECT_EQ(to_layers_(model, shared(model)), Names{});
  EXPECT_EQ(model->ptr(1), held.ptr());
  EXPECT_EQ(to_dense_(model), Names{});
}

TEST(ToLayers, LeavesLayersWithoutARule) {
  auto model = image();
  EXPECT_EQ(to_layers_(model, shared(model, {2}, "4")), Names{"4"});
  EXPECT_NO_THROW(layer_of<torch::nn::Conv2dImpl>(model, 0));
}

TEST(ToLayers, RefusesWhatHasNoLayerAndReplacesNothing) {
  auto model = image();
  const Sharer fresh(pomona::resolve<Share>(pomona::parameters(*model), {{"*", pomona::Share{3}}}));
  EXPECT_EQ(error_of([&] { to_layers_(model, fresh); }),
            "to_layers_: expected a shared model, got none. Call sharer.assign().");
  Share grouped{3};
  grouped.group = 16;
  EXPECT_EQ(error_of([&] { to_layers_(model, shared(model, grouped, "4")); }),
            "to_layers_: expected one codebook for `4`, got one for each 16 weights. Share it with "
            "group 0.");
  const auto sharer = shared(model);
  {
    const at::NoGradGuard no_grad;
    layer_of<torch::nn::LinearImpl>(model, 4).weight[0][0] = 42;
  }
  EXPECT_EQ(error_of([&] { to_layers_(model, sharer); }),
            "to_layers_: expected the weight of `4` to be in its codebook, got others. Is this the "
            "model that was shared?");
  EXPECT_NO_THROW(layer_of<torch::nn::Conv2dImpl>(model, 0));
}

TEST(ToDense, DrawsNoRandomNumbers) {
  auto model = image();
  to_layers_(model, shared(model));
  torch::manual_seed(3);
  const at::Tensor expected = at::randn({4});
  torch::manual_seed(3);
  to_dense_(model);
  EXPECT_TRUE(at::equal(at::randn({4}), expected));
}

}  // namespace
