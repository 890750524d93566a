#include "pomona/error.h"
#include "pomona/nn.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <torch/optim/sgd.h>

#include <gtest/gtest.h>

#include <string>

namespace {

using pomona::nn::SharedLinear;

// What tests/python/nn/test_shared_linear.py holds as well: the two languages agree byte for byte.
const at::Tensor kWeight = at::tensor({0.0F, 0.5F, -1.0F, 0.5F, 0.0F, 2.0F}).reshape({2, 3});
const at::Tensor kBias = at::tensor({0.25F, -1.0F});
const at::Tensor kInput = at::tensor({1.0F, 2.0F, 4.0F});

std::string error_of(const auto& f) {
  try {
    f();
  } catch (const pomona::InvalidArgument& error) {
    return error.what();
  }
  return "";
}

TEST(SharedLinear, AgreesWithPythonByteForByte) {
  SharedLinear layer(kWeight, kBias);
  EXPECT_TRUE(layer->has_zero);
  EXPECT_TRUE(at::equal(layer->codebook, at::tensor({-1.0F, 0.5F, 2.0F})));
  EXPECT_TRUE(at::equal(layer->codes, at::tensor({0b10'01'10'00, 0b11'00}, at::kByte)));
  EXPECT_TRUE(at::equal(layer(kInput), at::tensor({-2.75F, 7.5F})));
}

TEST(SharedLinear, GivesTheWeightOfTheLinearLayerBackInEveryDType) {
  for (const auto dtype : {at::kHalf, at::kBFloat16, at::kFloat, at::kDouble}) {
    for (const at::Tensor& weight : {kWeight, kWeight + 3, kWeight * 0, kWeight.t()}) {
      const at::Tensor typed = weight.to(dtype);
      EXPECT_TRUE(at::equal(SharedLinear(typed, at::Tensor())->weight(), typed)) << dtype;
    }
  }
}

TEST(SharedLinear, TrainsItsCodebookAndNotItsZeros) {
  SharedLinear layer(kWeight, kBias);
  torch::optim::SGD optimizer(layer->parameters(), 0.1);
  layer(kInput).sum().backward();
  // dL/dC: -1 at column 2; 0.5 at columns 1 and 0; 2 at column 2.
  EXPECT_TRUE(at::equal(layer->codebook.grad(), at::tensor({4.0F, 3.0F, 4.0F})));
  optimizer.step();
  EXPECT_TRUE(at::equal(layer->weight().eq(0), kWeight.eq(0)));
}

TEST(SharedLinear, AClonedLayerIsIndependent) {
  SharedLinear layer(kWeight, kBias);
  const auto copy = std::dynamic_pointer_cast<pomona::nn::SharedLinearImpl>(layer->clone());
  {
    const at::NoGradGuard no_grad;
    layer->codebook.zero_();
  }
  EXPECT_TRUE(at::equal(copy->weight(), kWeight));
  EXPECT_EQ(copy->named_buffers().keys(), std::vector<std::string>{"codes"});
}

TEST(SharedLinear, AChangeOfDTypeLeavesTheCodes) {
  SharedLinear layer(kWeight, kBias);
  layer->to(at::kDouble);
  EXPECT_EQ(layer->codes.scalar_type(), at::kByte);
  EXPECT_TRUE(at::equal(layer->weight(), kWeight.to(at::kDouble)));
}

TEST(SharedLinear, RefusesWhatItCannotHold) {
  const auto make = [](const at::Tensor& weight) { SharedLinear(weight, at::Tensor()); };
  EXPECT_NE(error_of([&] {
              make(at::arange(289).reshape({17, 17}).to(at::kFloat));
            }).find("at most 256 distinct values, got 289"),
            std::string::npos);
  EXPECT_NE(error_of([&] { make(kWeight / 0); }).find("finite, got NaN or Inf"), std::string::npos);
  EXPECT_NE(error_of([&] { make(kBias); }).find("floating-point [out, in], got Float [2]"),
            std::string::npos);
}

}  // namespace
