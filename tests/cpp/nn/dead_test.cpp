#include "pomona/dead.h"

#include "pomona/error.h"
#include "pomona/io.h"
#include "pomona/optim.h"

#include "error_of.h"
#include "temporary_folder.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/pooling.h>
#include <torch/optim/adam.h>
#include <torch/optim/lbfgs.h>
#include <torch/utils.h>

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace {

using pomona::testing::error_of;
using torch::nn::Linear;
using torch::nn::Sequential;
using torch::nn::Tanh;

at::Tensor weight(Sequential& model, const std::string& name) {
  return model->named_parameters()[name + ".weight"].data();
}

// Convolutions, batch norm, pool, flatten, in double precision.
Sequential convolutions() {
  torch::manual_seed(0);
  const auto conv = [](int64_t in, int64_t out) {
    return torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 3));
  };
  Sequential model(conv(2, 6), torch::nn::BatchNorm2d(6), torch::nn::ReLU(),
                   torch::nn::MaxPool2d(2), conv(6, 8), Tanh(), torch::nn::AdaptiveAvgPool2d(2),
                   torch::nn::Flatten(), Linear(32, 10), torch::nn::ELU(), torch::nn::Dropout(),
                   Linear(10, 3));
  model->to(at::kDouble);
  model->eval();
  return model;
}

TEST(RemoveDead, KeepsWhatAConvolutionalNetworkComputes) {
  auto model = convolutions();
  const at::Tensor x = at::randn({4, 2, 12, 12}, at::kDouble);
  weight(model, "0")[1].zero_();            // without inputs: a constant
  weight(model, "4").select(1, 2).zero_();  // neuron 2 of layer 0 without readers
  weight(model, "4")[3].zero_();
  weight(model, "8").slice(1, 4 * 5, 4 * 6).zero_();  // neuron 5 of layer 4 without readers
  weight(model, "8")[0].zero_();
  const at::Tensor before = model->forward(x);
  EXPECT_EQ(pomona::dead_neurons(model, x)[0].removed, 2);
  EXPECT_TRUE(at::equal(model->forward(x), before));
  const auto removal = pomona::remove_dead_(model, x);
  EXPECT_EQ(removal.removed(), 5);
  EXPECT_TRUE(at::allclose(model->forward(x), before, 1e-10, 1e-10));
  EXPECT_EQ(weight(model, "4").sizes(), (std::vector<int64_t>{6, 4, 3, 3}));
  EXPECT_EQ(weight(model, "1").sizes(), (std::vector<int64_t>{4}));
  EXPECT_EQ(weight(model, "8").sizes(), (std::vector<int64_t>{9, 24}));
  EXPECT_EQ(model->at<torch::nn::Conv2dImpl>(0).options.out_channels(), 4);
  EXPECT_EQ(model[1]->as<torch::nn::BatchNorm2dImpl>()->options.num_features(), 4);
  EXPECT_EQ(model->at<torch::nn::LinearImpl>(8).options.in_features(), 24);
  EXPECT_EQ(removal.tensors[0].name, "0.weight");
  EXPECT_EQ(removal.tensors[0].indices.at(0), (std::vector<int64_t>{0, 3, 4, 5}));
  EXPECT_EQ(removal.tensors[0].shape, (std::vector<int64_t>{6, 2, 3, 3}));
}

TEST(Removal, WritesTheOriginalNetworkAgain) {
  const auto make = [] {
    torch::manual_seed(4);
    Sequential model(torch::nn::Conv2d(torch::nn::Conv2dOptions(2, 6, 3)),
                     torch::nn::BatchNorm2d(6), torch::nn::ReLU(), torch::nn::Flatten(),
                     Linear(96, 5), Tanh(), Linear(5, 3));
    model->eval();
    return model;
  };
  auto small = make();
  weight(small, "4").slice(1, 16, 48).zero_();  // nobody reads channels 1 and 2
  const at::Tensor x = at::randn({2, 2, 6, 6}), before = small->forward(x);
  const auto first = pomona::remove_dead_(small, x);
  weight(small, "6").slice(1, 0, 2).zero_();  // and now neurons 0 and 1 of layer 4
  weight(small, "4").slice(1, 0, 16).zero_();
  const at::Tensor after = small->forward(x);
  const auto second = pomona::remove_dead_(small, x);
  const auto both = first.then(second);
  EXPECT_EQ(both.removed(), 5);

  const pomona::testing::TemporaryFolder folder;
  const auto file = folder.path() / "original.pomona";
  pomona::save(both.expand(pomona::tensors_of(*small)), file);
  auto original = make();
  pomona::load_(*original, file);
  EXPECT_EQ(weight(original, "0").sizes(), (std::vector<int64_t>{6, 2, 3, 3}));
  EXPECT_TRUE(at::allclose(original->forward(x), after, 1e-4, 1e-5));
  EXPECT_FALSE(at::allclose(before, after));
}

TEST(Removal, RefusesTensorsOfAnotherNetwork) {
  Sequential model(Linear(4, 3), Tanh(), Linear(3, 2));
  weight(model, "0")[1].zero_();
  model[0]->as<torch::nn::LinearImpl>()->bias.data()[1] = 0;
  const auto removal = pomona::remove_dead_(model, at::zeros({1, 4}));
  ASSERT_EQ(removal.removed(), 1);
  const std::string wanted = "expand: expected `small` to hold `0.weight` of shape [2, 4], got ";
  EXPECT_NE(error_of([&] { removal.expand({}); }).find(wanted + "no such tensor"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              removal.expand({{"0.weight", at::zeros({3, 4})}});
            }).find(wanted + "shape [3, 4]"),
            std::string::npos);
  EXPECT_EQ(error_of([&] { removal.then(removal); }),
            "Removal.then: expected `later` to begin where this removal ended, got `0.weight` of "
            "shape [3, 4] after [2, 4].");
}

TEST(RemoveDead, SaysWhyANeuronStays) {
  using torch::nn::LinearOptions;
  Sequential model(Linear(4, 3), torch::nn::Sigmoid(), Linear(LinearOptions(3, 3).bias(false)),
                   torch::nn::Softmax(1), Linear(3, 2));
  weight(model, "0")[1].zero_();
  weight(model, "2")[1].zero_();
  const auto rows = pomona::dead_neurons(model, at::zeros({1, 4}));
  EXPECT_EQ(rows[0].stayed, 1);
  EXPECT_EQ(rows[0].why, "`2` has no bias to fold it into");
  EXPECT_EQ(rows[1].why, "it goes through `3`");
  EXPECT_EQ(rows[1].stayed, 1);
  EXPECT_EQ(rows[2].why, "the model returns it");
}

// Trains with and without the removal; both must go the same way.
TEST(RemoveDead, CutsOptimizerStateGradientsAndMasksInTheMiddleOfTraining) {
  const auto make = [] {
    torch::manual_seed(1);
    Sequential model(Linear(6, 8), Tanh(), Linear(8, 8), Tanh(), Linear(8, 2));
    model->to(at::kDouble);
    weight(model, "2").slice(1, 4).mul_(1e-9);
    weight(model, "4").slice(1, 4).mul_(1e-9);
    return model;
  };
  const auto run = [&](bool removes) {
    auto model = make();
    torch::optim::Adam optimizer(model->parameters(),
                                 torch::optim::AdamOptions(1e-2).amsgrad(true));
    pomona::Pruner pruner(pomona::resolve<pomona::Prune>(pomona::parameters(*model),
                                                         {{"2", {{0.5}}}, {"4", {{0.5}}}}));
    const auto train = [&](int64_t seed) {
      torch::manual_seed(static_cast<uint64_t>(seed));
      optimizer.zero_grad();
      model->forward(at::randn({8, 6}, at::kDouble)).square().mean().backward();
      pomona::step(optimizer, pomona::live(*model, pruner.names(), &optimizer), pruner);
    };
    pruner.step(pomona::live(*model, pruner.names(), &optimizer));
    for (int64_t seed = 0; seed < 3; ++seed) train(seed);
    const at::Tensor loss = model->forward(at::randn({8, 6}, at::kDouble)).sum();  // stays alive
    if (removes) {
      const auto removal = pomona::remove_dead_(model, at::zeros({1, 6}, at::kDouble),
                                                {.pruners = {&pruner}, .optimizer = &optimizer});
      EXPECT_EQ(removal.removed(), 8);
      EXPECT_EQ(pruner.masks()[0].size(), 16);
      const auto live = pomona::live(*model, {"2.weight"}, &optimizer)[0];
      EXPECT_EQ(live.state.size(), 3u);
      for (const auto& state : live.state) EXPECT_EQ(state.value.sizes(), live.weight.sizes());
      EXPECT_EQ(live.weight.grad().sizes(), live.weight.sizes());
    }
    for (int64_t seed = 3; seed < 6; ++seed) train(seed);
    pruner.check(pomona::live(*model, pruner.names(), &optimizer));
    torch::manual_seed(9);
    return model->forward(at::randn({8, 6}, at::kDouble));
  };
  EXPECT_TRUE(at::allclose(run(true), run(false), 1e-9, 1e-9));
}

TEST(RemoveDead, RefusesWhatItCannotDoAndChangesNothing) {
  Sequential model(Linear(4, 3), Tanh(), Linear(3, 2)), other(Linear(4, 5));
  weight(model, "0")[1].zero_();
  const at::Tensor x = at::zeros({1, 4});
  const auto refused = [&](const at::Tensor& example, const pomona::Removing& removing) {
    return error_of([&] { pomona::remove_dead_(model, example, removing); });
  };
  EXPECT_EQ(refused(at::zeros({1, 5}), {}).substr(0, 100),
            "remove_dead_: expected `example` to be an input of the model, got shape [1, 5], with "
            "which `0` fails");
  pomona::Pruner pruner(
      pomona::resolve<pomona::Prune>(pomona::parameters(*other), {{"*", pomona::Prune{0.5}}}));
  EXPECT_EQ(refused(x, {.pruners = {&pruner}}),
            "remove_dead_: expected `pruners` to be of this model, got one with 20 weights for "
            "`0.weight`, of which the model has 12.");
  EXPECT_EQ(refused(x, {.pruners = {nullptr}}),
            "remove_dead_: expected `pruners` to be Pruner objects, got nullptr.");
  torch::optim::LBFGS optimizer(model->parameters());
  optimizer.step([&] {
    optimizer.zero_grad();
    const at::Tensor loss = model->forward(at::randn({2, 4})).square().mean();
    loss.backward();
    return loss;
  });
  EXPECT_EQ(
      refused(x, {.optimizer = &optimizer}),
      "remove_dead_: expected `optimizer` to hold state of the parameters' shapes, got LBFGS, "
      "which holds one long vector. Make a new one after the removal.");
  EXPECT_EQ(weight(model, "0").size(0), 3);
}

TEST(DeadPlan, RefusesAConsumerThatIsNoLayer) {
  const at::Tensor matrix = at::zeros({2, 2});
  EXPECT_EQ(
      error_of([&] { pomona::DeadPlan({{.name = "a", .weight = matrix, .consumer = "b"}}, {}); }),
      "DeadPlan: expected each consumer to be one of `layers`, got `b`.");
}

}  // namespace
