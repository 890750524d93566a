#include "pomona/packed_rnn.h"

#include "pomona/error.h"

#include "error_of.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand_like.h>
#include <ATen/ops/randn.h>
#include <torch/serialize.h>
#include <torch/utils.h>

#include <gtest/gtest.h>

#include <limits>
#include <sstream>
#include <string>
#include <vector>

namespace {

using pomona::Layout;
using pomona::nn::PackedGRU;
using pomona::nn::PackedLSTM;
using pomona::testing::error_of;

// Pruned to a third, few values.
template <class Rnn>
Rnn sparse(Rnn rnn) {
  const torch::NoGradGuard no_grad;
  for (auto& item : rnn->named_parameters()) {
    if (item.key().find("weight") != 0) continue;
    item.value().mul_(20).round_().div_(20);
    item.value().masked_fill_(at::rand_like(item.value()) >= 0.3, 0);
  }
  rnn->eval();
  return rnn;
}

void expect_same(const at::Tensor& ours, const at::Tensor& theirs) {
  EXPECT_EQ(ours.sizes(), theirs.sizes());
  EXPECT_TRUE(at::allclose(ours, theirs, 1e-5, 1e-6));
}

template <class... Values>
void expect_same(const std::tuple<Values...>& ours, const std::tuple<Values...>& theirs) {
  expect_same(std::get<0>(ours), std::get<0>(theirs));
  expect_same(std::get<1>(ours), std::get<1>(theirs));
}

// With and without a batch and states to begin with.
template <class PackedRnn, class Rnn>
void expect_computes_the_same(Rnn rnn) {
  const torch::NoGradGuard no_grad;
  sparse(rnn);
  PackedRnn packed(rnn);
  const at::Tensor x = at::randn({3, 5, 12});
  const auto expected = rnn->forward(x);
  expect_same(packed->forward(x), expected);
  expect_same(packed->forward(x, std::get<1>(expected)), rnn->forward(x, std::get<1>(expected)));
  // LibTorch's own take a batch only.
  const auto one = packed->forward(x[0]);
  const bool is_batch_first = packed->batch_first;
  const auto batch = packed->forward(x[0].unsqueeze(is_batch_first ? 0 : 1));
  expect_same(std::get<0>(one), std::get<0>(batch).squeeze(is_batch_first ? 0 : 1));
}

template <class Options>
std::vector<Options> all_options() {
  return {Options(12, 9), Options(12, 9).num_layers(2).dropout(0.5),
          Options(12, 9).bidirectional(true),
          Options(12, 9).num_layers(2).bidirectional(true).batch_first(true).bias(false)};
}

TEST(PackedLSTM, ComputesWhatTheDenseLayerComputes) {
  for (const auto& options : all_options<torch::nn::LSTMOptions>()) {
    expect_computes_the_same<PackedLSTM>(torch::nn::LSTM(options));
  }
}

TEST(PackedLSTM, MayHaveAProjection) {
  expect_computes_the_same<PackedLSTM>(
      torch::nn::LSTM(torch::nn::LSTMOptions(12, 9).num_layers(2).proj_size(4)));
}

TEST(PackedGRU, ComputesWhatTheDenseLayerComputes) {
  for (const auto& options : all_options<torch::nn::GRUOptions>()) {
    expect_computes_the_same<PackedGRU>(torch::nn::GRU(options));
  }
}

TEST(PackedLSTM, HasTheNamesOfPythonAndNoParameter) {
  PackedLSTM packed(
      torch::nn::LSTM(torch::nn::LSTMOptions(4, 3).num_layers(2).bidirectional(true).proj_size(2)));
  std::vector<std::string> names;
  for (const auto& item : packed->named_buffers()) names.push_back(item.key());
  EXPECT_TRUE(packed->parameters().empty());
  ASSERT_EQ(names.size(), 4u * 5u);  // a projection has no bias
  EXPECT_EQ((std::vector<std::string>(names.begin(), names.begin() + 5)),
            (std::vector<std::string>{"cells.0.input.packed", "cells.0.input.bias",
                                      "cells.0.hidden.packed", "cells.0.hidden.bias",
                                      "cells.0.projection.packed"}));
  EXPECT_EQ(names.back(), "cells.3.projection.packed");
}

TEST(PackedGRU, CloneIsACopyOfItsOwn) {
  PackedGRU packed(sparse(torch::nn::GRU(12, 9)));
  const auto copy = std::dynamic_pointer_cast<pomona::nn::PackedGRUImpl>(packed->clone());
  const at::Tensor x = at::randn({4, 1, 12}), before = std::get<0>(packed->forward(x));
  EXPECT_TRUE(at::equal(std::get<0>(copy->forward(x)), before));
  for (at::Tensor& buffer : copy->buffers()) buffer.zero_();
  EXPECT_TRUE(at::equal(std::get<0>(packed->forward(x)), before));
}

TEST(PackedLSTM, ComesBackFromAnArchive) {
  const auto options = torch::nn::LSTMOptions(12, 9).proj_size(4);
  PackedLSTM packed(sparse(torch::nn::LSTM(options)), pomona::Packing{.layout = Layout::kPg32}),
      other{torch::nn::LSTM(options)}, wrong{torch::nn::LSTM(12, 9)};
  EXPECT_EQ(packed->cells->at<pomona::nn::PackedCellImpl>(0).hidden->options.layout, Layout::kPg32);
  std::stringstream stream;
  torch::save(packed, stream);
  torch::load(other, stream);
  const at::Tensor x = at::randn({4, 2, 12});
  EXPECT_TRUE(at::equal(std::get<0>(other->forward(x)), std::get<0>(packed->forward(x))));
  std::stringstream again(stream.str());
  EXPECT_EQ(error_of([&] { torch::load(wrong, again); }),
            "PackedLinear: expected `packed` of shape [36, 9], got [36, 4].");
}

TEST(PackedGRU, KeepsItsBytesAndGivesTheDtypeOfTheInput) {
  PackedGRU packed(sparse(torch::nn::GRU(12, 9)));
  const at::Tensor x = at::randn({4, 2, 12}), before = std::get<0>(packed->forward(x));
  torch::nn::Sequential model(packed);
  model->to(at::kDouble);
  const auto [output, state] = packed->forward(x.to(at::kDouble));
  EXPECT_EQ(output.scalar_type(), at::kDouble);
  EXPECT_EQ(state.scalar_type(), at::kDouble);
  EXPECT_TRUE(at::allclose(output.to(at::kFloat), before, 1e-5, 1e-6));
}

TEST(PackedLSTM, StandsInASequentialAndSaysWhatItIs) {
  auto lstm = sparse(torch::nn::LSTM(torch::nn::LSTMOptions(12, 9).num_layers(2).proj_size(4)));
  torch::nn::Sequential model{PackedLSTM(lstm)};
  const at::Tensor x = at::randn({3, 1, 12});
  using Output = std::tuple<at::Tensor, std::tuple<at::Tensor, at::Tensor>>;
  expect_same(model->forward<Output>(x), lstm->forward(x));
  EXPECT_FALSE(model[0]->is_training());  // as the dense layer
  std::stringstream words;
  words << *model[0]->as<pomona::nn::PackedLSTMImpl>();
  EXPECT_EQ(words.str().substr(0, 61),
            "pomona::nn::PackedLSTM(12, 9, num_layers=2, proj_size=4)(\n  (");
}

TEST(PackedLSTM, RefusesWhatDoesNotFit) {
  PackedLSTM lstm(torch::nn::LSTM(3, 4));
  const auto input =
      "PackedLSTM: expected `input` of shape [steps, 3] or [steps, batch, 3] with a "
      "step, got ";
  EXPECT_EQ(error_of([&] { lstm->forward(at::ones({2, 4})); }), input + std::string("[2, 4]."));
  EXPECT_EQ(error_of([&] { lstm->forward(at::ones({0, 3})); }), input + std::string("[0, 3]."));
  EXPECT_EQ(error_of([&] { lstm->forward(at::ones({3})); }), input + std::string("[3]."));
  EXPECT_EQ(error_of([&] {
              lstm->forward(at::ones({2, 3}), std::tuple(at::ones({1, 4}), at::ones({1, 3})));
            }),
            "PackedLSTM: expected `hx` of shapes [[1, 1, 4], [1, 1, 4]], got [[1, 1, 4], [1, 1, "
            "3]].");
  PackedGRU gru(torch::nn::GRU(3, 4));
  EXPECT_EQ(error_of([&] {
              gru->forward(at::ones({2, 1, 3}), at::ones({1, 4}));
            }),
            "PackedGRU: expected `hx` of shapes [[1, 1, 4]], got [[1, 4]].");
}

TEST(PackedLSTM, RefusesWeightsThatCannotBePacked) {
  torch::nn::LSTM lstm(3, 4);
  lstm->to(at::kDouble);
  EXPECT_EQ(error_of([&] { PackedLSTM packed(lstm); }),
            "pack: expected `weight` to be float32, float16 or bfloat16, got float64.");
  torch::nn::GRU gru(3, 4);
  EXPECT_EQ(error_of([&] {
              PackedGRU packed(gru, pomona::Packing{.layout = Layout::kPgv});
            }).substr(0, 58),
            "pack: expected `weight` to fit pgv in fp32, got a matrix t");
  gru->named_parameters()["weight_hh_l0"].data()[0][0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(error_of([&] { PackedGRU packed(gru); }),
            "pack: expected `weight` to be finite, got NaN or Inf.");
}

}  // namespace
