#include "pomona/io.h"

#include "pomona/error.h"
#include "pomona/nn.h"

#include "../temporary_folder.h"
#include "error_of.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace {

using pomona::testing::error_of;
using pomona::testing::TemporaryFolder;

torch::nn::Sequential net() {
  torch::nn::Sequential model(torch::nn::Linear(20, 30), torch::nn::BatchNorm1d(30),
                              torch::nn::Linear(30, 4));
  const torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) {
    parameter.masked_fill_(parameter.abs() < 0.1, 0);
  }
  return model;
}

void expect_same(const torch::nn::Module& a, const torch::nn::Module& b) {
  for (const auto& item : a.named_parameters()) {
    EXPECT_TRUE(at::equal(item.value(), b.named_parameters()[item.key()])) << item.key();
  }
  for (const auto& item : a.named_buffers()) {
    EXPECT_TRUE(at::equal(item.value(), b.named_buffers()[item.key()])) << item.key();
  }
}

TEST(Io, AModelComesBack) {
  const TemporaryFolder folder;
  auto model = net(), other = net();
  const auto report = pomona::save(*model, folder / "net.pomona");
  EXPECT_EQ(report.entries.size(), 9u);
  EXPECT_EQ(report.entries[0].name, "0.weight");
  EXPECT_EQ(report.file_bytes, std::filesystem::file_size(folder / "net.pomona"));
  pomona::load_(*other, folder / "net.pomona");
  expect_same(*model, *other);
}

TEST(Io, ParametersStayTheObjectsThatAnOptimizerHolds) {
  const TemporaryFolder folder;
  auto model = net(), other = net();
  const at::Tensor held = other->parameters()[0];
  pomona::save(*model, folder / "net.pomona");
  pomona::load_(*other, folder / "net.pomona");
  EXPECT_TRUE(held.is_same(other->parameters()[0]));
  EXPECT_TRUE(at::equal(held, model->parameters()[0]));
}

TEST(Io, APackedLayerIsSavedWithItsDenseWeight) {
  const TemporaryFolder folder;
  const at::Tensor x = at::randn({3, 20});
  torch::nn::Linear linear(20, 5), dense(20, 5);
  torch::nn::Sequential model(pomona::nn::PackedLinear{linear});
  torch::nn::Sequential other(pomona::nn::PackedLinear(at::ones({5, 20}), at::zeros({5})));
  pomona::save(*model, folder / "net.pomona");
  pomona::load_(*other, folder / "net.pomona");
  EXPECT_TRUE(at::equal(other->forward(x), model->forward(x)));
  torch::nn::Sequential dense_model(dense);
  pomona::load_(*dense_model, folder / "net.pomona");
  EXPECT_TRUE(at::equal(dense->weight, linear->weight));
}

TEST(Io, SaveRefusesParametersThatAreNotFinite) {
  const TemporaryFolder folder;
  auto model = net();
  model->parameters()[1].data()[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(error_of([&] { pomona::save(*model, folder / "net.pomona"); }),
            "save: expected finite parameters, got NaN or Inf in: 0.bias.");
  EXPECT_FALSE(std::filesystem::exists(folder / "net.pomona"));
}

TEST(Io, LoadListsEverythingThatDoesNotFitAndChangesNothing) {
  const TemporaryFolder folder;
  pomona::save({{"0.weight", at::ones({3})}, {"old", at::ones({1})}}, folder / "a.pomona");
  torch::nn::Sequential model(torch::nn::Linear(2, 3));
  const at::Tensor before = model->parameters()[0].clone();
  EXPECT_EQ(error_of([&] { pomona::load_(*model, folder / "a.pomona"); }),
            "load_: expected the tensors of the model, name by name, got missing: 0.bias; "
            "unexpected: old; wrong shape: 0.weight ([3], the model has [3, 2]). The model is as "
            "it was.");
  EXPECT_TRUE(at::equal(model->parameters()[0], before));
}

TEST(Io, TensorsComeBackThroughWeight) {
  const at::Tensor tensor = at::randn({4, 6}).t();
  const auto weight = pomona::to_weight("t", tensor);
  EXPECT_EQ(weight.shape, (std::vector<int64_t>{6, 4}));
  EXPECT_TRUE(at::equal(pomona::to_tensor(weight), tensor));
}

TEST(Io, ToWeightRefusesDtypesThatAFileCannotHold) {
  EXPECT_EQ(error_of([] { pomona::to_weight("t", at::zeros({2}, at::kComplexFloat)); }),
            "to_weight: expected `t` to have a dtype that a file can hold (float, integer or "
            "bool), got ComplexFloat.");
  EXPECT_EQ(error_of([] { pomona::to_weight("t", {}); }),
            "to_weight: expected `t` to be a tensor, got an undefined one.");
}

}  // namespace
