#include "pomona/error.h"
#include "pomona/nn.h"

#include "error_of.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/rand_like.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/zeros.h>
#include <torch/serialize.h>
#include <torch/utils.h>

#include <gtest/gtest.h>

#include <sstream>
#include <tuple>

namespace {

using pomona::nn::PackedLinear;
using pomona::testing::error_of;

torch::nn::Linear sparse_linear(int64_t in_features, int64_t out_features, double density) {
  torch::nn::Linear linear(in_features, out_features);
  const torch::NoGradGuard no_grad;
  linear->weight.masked_fill_(at::rand_like(linear->weight) >= density, 0);
  return linear;
}

TEST(PackedLinear, ComputesWhatTheDenseLayerComputes) {
  auto linear = sparse_linear(40, 9, 0.3);
  PackedLinear packed(linear);
  const at::Tensor x = at::randn({2, 3, 40});
  EXPECT_TRUE(at::allclose(packed->forward(x), linear->forward(x), 1e-5, 1e-5));
  EXPECT_TRUE(at::equal(packed->weight(), linear->weight));
  EXPECT_EQ(packed->forward(x.to(at::kBFloat16)).scalar_type(), at::kBFloat16);
}

TEST(PackedLinear, CloneIsACopyOfItsOwn) {
  PackedLinear packed(sparse_linear(40, 9, 0.3));
  const auto copy = std::dynamic_pointer_cast<pomona::nn::PackedLinearImpl>(packed->clone());
  const at::Tensor x = at::randn({40}), before = packed->forward(x);
  EXPECT_TRUE(at::equal(copy->forward(x), before));
  copy->bias.zero_();
  copy->packed.zero_();
  EXPECT_TRUE(at::equal(packed->forward(x), before));
}

TEST(PackedLinear, AChangeOfDTypeLeavesThePackedBytes) {
  PackedLinear packed(sparse_linear(40, 9, 0.3));
  const at::Tensor before = packed->packed.clone();
  torch::nn::Sequential model(packed);
  model->to(at::kDouble);
  EXPECT_TRUE(at::equal(packed->packed, before));
  EXPECT_EQ(packed->forward(at::randn({40}, at::kDouble)).scalar_type(), at::kDouble);
}

TEST(PackedLinear, ComesBackFromAnArchive) {
  PackedLinear packed(sparse_linear(40, 9, 0.3)), other(at::zeros({9, 40}), at::zeros({9}));
  std::stringstream stream;
  torch::save(packed, stream);
  torch::load(other, stream);
  const at::Tensor x = at::randn({40});
  EXPECT_TRUE(at::equal(other->forward(x), packed->forward(x)));
}

TEST(PackedLinear, RefusesAnArchiveOfAnotherShape) {
  PackedLinear packed(sparse_linear(40, 9, 0.3)), other(at::zeros({9, 41}), at::zeros({9}));
  std::stringstream stream;
  torch::save(packed, stream);
  EXPECT_EQ(error_of([&] { torch::load(other, stream); }),
            "PackedLinear: expected `packed` of shape [9, 41], got [9, 40].");
}

TEST(PackedLinear, RefusesAWrongBias) {
  EXPECT_EQ(error_of([] {
              PackedLinear(at::zeros({3, 2}), at::zeros({2}));
            }),
            "PackedLinear: expected `bias` to be floating point of shape [3], got Float [2].");
}

TEST(PackedLinear, OfEveryLayoutAndPrecisionKeepsTheOutputs) {
  using pomona::Layout;
  using pomona::Precision;
  const at::Tensor weight = at::randint(-7, 8, {70, 90}).to(at::kFloat) / 8, bias = at::randn({70});
  const at::Tensor x = at::randn({2, 90}), expected = at::relu(at::linear(x, weight, bias));
  const std::tuple<Layout, Precision, double> kinds[] = {
      {Layout::kCsr16, Precision::kFloat32, 1e-5}, {Layout::kPg32, Precision::kFloat32, 1e-5},
      {Layout::kPg32, Precision::kBFloat16, 1e-2}, {Layout::kPgv, Precision::kFixed16, 1e-4},
      {Layout::kPgv, Precision::kInt8, 5e-2},      {Layout::kLut, Precision::kFloat32, 1e-5}};
  for (const auto& [layout, precision, worst] : kinds) {
    PackedLinear packed(weight, bias, pomona::PackOptions{layout, precision}, /*has_relu=*/true);
    const double largest = expected.abs().max().item<double>();
    EXPECT_LE((packed->forward(x) - expected).abs().max().item<double>(), worst * largest);
    EXPECT_TRUE(at::equal(packed->weight(), weight));
    auto copy = std::dynamic_pointer_cast<pomona::nn::PackedLinearImpl>(packed->clone());
    EXPECT_TRUE(at::equal(copy->forward(x), packed->forward(x)));
  }
}

}  // namespace
