#include "pomona/error.h"
#include "pomona/nn.h"
#include "pomona/packed_attention.h"
#include "pomona/packed_rnn.h"

#include "error_of.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand_like.h>
#include <ATen/ops/randn.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/dropout.h>
#include <torch/utils.h>

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <tuple>
#include <vector>

namespace {

using pomona::testing::error_of;

// Each matrix keeps that part of its weights.
template <class Holder>
Holder sparse(Holder layer, double density) {
  const torch::NoGradGuard no_grad;
  for (auto& item : layer->named_parameters()) {
    if (item.key().find("weight") == std::string::npos || !item.value().defined()) continue;
    item.value().masked_fill_(at::rand_like(item.value()) >= density, 0);
  }
  return layer;
}

torch::nn::Linear sparse_linear(int64_t in_features, int64_t out_features, double density) {
  return sparse(torch::nn::Linear(in_features, out_features), density);
}

TEST(Pack, KeepsWhatTheModelComputes) {
  torch::nn::Sequential model(sparse_linear(2048, 1024, 0.01), torch::nn::ReLU(),
                              torch::nn::Dropout(), torch::nn::Linear(1024, 2));
  model->train();
  const at::Tensor x = at::randn({1, 2048});
  const auto choices = pomona::nn::pack_(model, x);
  ASSERT_EQ(choices.size(), 2u);
  EXPECT_EQ(choices[0].name, "0");
  EXPECT_EQ(choices[1].name, "3");
  EXPECT_TRUE(model->is_training());
  EXPECT_TRUE(model[2]->is_training());
  const auto* first = model[0]->as<pomona::nn::PackedLinearImpl>();
  EXPECT_EQ(first != nullptr, choices[0].is_packed);
  EXPECT_EQ(choices[0].is_packed, choices[0].packed_us < choices[0].dense_us);
  EXPECT_EQ(model->named_children()["0"].get(), model[0].get());
}

TEST(Pack, RefusesANegativeTolerance) {
  torch::nn::Sequential model(torch::nn::Linear(4, 4));
  EXPECT_EQ(error_of([&] {
              pomona::nn::pack_(model, at::ones({1, 4}), {.verify = -1});
            }),
            "pack_: expected `verify` of at least 0, got -1.");
}

TEST(Pack, ReplacesALayerThatStandsTwiceInBothPlaces) {
  auto layer = sparse_linear(2048, 2048, 0.002);
  torch::nn::Sequential model(layer, torch::nn::ReLU(), layer);
  pomona::nn::pack_(model, at::randn({1, 2048}));
  EXPECT_EQ(model[0].get(), model[2].get());
}

TEST(Pack, RefusesWeightsThatAreNotFiniteAndChangesNothing) {
  torch::nn::Linear bad(4, 4);
  bad->weight.data()[1][1] = std::numeric_limits<float>::infinity();
  torch::nn::Sequential model(torch::nn::Linear(4, 4), bad);
  const auto first = model[0];
  EXPECT_EQ(error_of([&] {
              pomona::nn::pack_(model, at::ones({1, 4}));
            }),
            "pack_: expected `1.weight` to be finite, got NaN or Inf.");
  EXPECT_EQ(model[0].get(), first.get());
}

// What takes the output of a recurrent layer, so that a Sequential goes on behind it.
struct OutputOf : torch::nn::Module {
  at::Tensor forward(const std::tuple<at::Tensor, std::tuple<at::Tensor, at::Tensor>>& result) {
    return std::get<0>(result);
  }
};

void expect_decided(const pomona::nn::PackChoice& choice, const std::string& name) {
  EXPECT_EQ(choice.name, name);
  EXPECT_EQ(choice.is_packed, choice.packed_us < choice.dense_us);
  EXPECT_GT(choice.bytes, 0);
  EXPECT_LE(choice.error, 1e-4);
  EXPECT_FALSE(choice.layouts.empty());
}

TEST(Pack, TriesRecurrentLayers) {
  using Output = std::tuple<at::Tensor, at::Tensor>;
  torch::nn::Sequential model(sparse(torch::nn::LSTM(64, 512), 0.01), OutputOf(),
                              torch::nn::Linear(512, 8), sparse(torch::nn::GRU(8, 512), 0.01));
  const torch::NoGradGuard no_grad;
  model->eval();
  const at::Tensor x = at::randn({3, 1, 64});
  const auto [output, state] = model->forward<Output>(x);
  const auto choices = pomona::nn::pack_(model, x);
  ASSERT_EQ(choices.size(), 3u);
  expect_decided(choices[0], "0");
  expect_decided(choices[2], "3");
  EXPECT_EQ(model[0]->as<pomona::nn::PackedLSTMImpl>() != nullptr, choices[0].is_packed);
  EXPECT_EQ(model[3]->as<pomona::nn::PackedGRUImpl>() != nullptr, choices[2].is_packed);
  EXPECT_FALSE(model[0]->is_training());
  EXPECT_TRUE(at::allclose(std::get<0>(model->forward<Output>(x)), output, 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(std::get<1>(model->forward<Output>(x)), state, 1e-4, 1e-5));
}

TEST(Pack, TriesAttention) {
  using torch::nn::MultiheadAttention;
  const torch::NoGradGuard no_grad;
  torch::nn::Sequential model(sparse(MultiheadAttention(512, 4), 0.01));
  const std::vector<at::Tensor> x(3, at::randn({2, 1, 512}));
  using Output = std::tuple<at::Tensor, at::Tensor>;
  model->eval();
  const auto expected = model->forward<Output>(x[0], x[1], x[2]);
  const auto choices = pomona::nn::pack_(model, x);
  ASSERT_EQ(choices.size(), 1u);
  expect_decided(choices[0], "0");
  EXPECT_EQ(model[0]->as<pomona::nn::PackedMultiheadAttentionImpl>() != nullptr,
            choices[0].is_packed);
  const auto got = model->forward<Output>(x[0], x[1], x[2]);
  EXPECT_TRUE(at::allclose(std::get<0>(got), std::get<0>(expected), 1e-4, 1e-5));
}

TEST(Pack, LeavesWhatCannotBePacked) {
  const auto options = torch::nn::MultiheadAttentionOptions(8, 2).add_bias_kv(true);
  torch::nn::Sequential attention{torch::nn::MultiheadAttention(options)};
  const std::vector<at::Tensor> x(3, at::randn({2, 1, 8}));
  EXPECT_TRUE(pomona::nn::pack_(attention, x).empty());
  torch::nn::GRU gru(4, 4);
  gru->to(at::kDouble);
  torch::nn::Sequential recurrent(gru);
  EXPECT_TRUE(pomona::nn::pack_(recurrent, at::ones({2, 1, 4}, at::kDouble)).empty());
}

TEST(Pack, ALayerWhoseOutputsWouldChangeStaysDense) {
  torch::nn::Sequential model(sparse(torch::nn::LSTM(64, 512), 0.01));
  const auto choices = pomona::nn::pack_(model, at::randn({2, 1, 64}), {.verify = 1e-30});
  EXPECT_FALSE(choices.at(0).is_packed);
  EXPECT_GT(choices[0].error, 0);
  EXPECT_NE(model[0]->as<torch::nn::LSTMImpl>(), nullptr);
}

TEST(Pack, NamesTheMatrixThatIsNotFinite) {
  torch::nn::LSTM bad(4, 4);
  bad->named_parameters()["weight_hh_l0"].data()[1][1] = std::numeric_limits<float>::infinity();
  torch::nn::Sequential model(bad);
  EXPECT_EQ(error_of([&] {
              pomona::nn::pack_(model, at::ones({2, 1, 4}));
            }),
            "pack_: expected `0.weight_hh_l0` to be finite, got NaN or Inf.");
  const std::vector<at::Tensor> none;
  EXPECT_EQ(error_of([&] { pomona::nn::pack_(model, none); }),
            "pack_: expected `example` of 1 to 3 tensors, got 0.");
}

}  // namespace
