#include "pomona/error.h"
#include "pomona/nn.h"

#include "error_of.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <torch/optim/sgd.h>
#include <torch/serialize.h>

#include <gtest/gtest.h>

#include <sstream>
#include <string>

namespace {

using pomona::nn::SharedLinear;
using pomona::testing::error_of;

// What tests/python/nn/test_shared_linear.py holds as well: the two languages agree byte for byte.
const at::Tensor kWeight = at::tensor({0.0F, 0.5F, -1.0F, 0.5F, 0.0F, 2.0F}).reshape({2, 3});
const at::Tensor kBias = at::tensor({0.25F, -1.0F});
const at::Tensor kInput = at::tensor({1.0F, 2.0F, 4.0F});

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

// A layer written by `from` and read into `into`.
void save_and_load(const SharedLinear& from, SharedLinear& into) {
  std::stringstream stream;
  torch::save(from, stream);
  torch::load(into, stream);
}

TEST(SharedLinear, IsReadBackFromAnArchive) {
  SharedLinear layer(kWeight, kBias), other(kWeight * 2, kBias * 2);
  save_and_load(layer, other);
  EXPECT_TRUE(at::equal(other->weight(), kWeight));
  EXPECT_TRUE(at::equal(other->bias, kBias));
}

TEST(SharedLinear, RefusesAnArchiveWithOtherCodes) {
  SharedLinear layer(kWeight, kBias), damaged(kWeight, kBias), other(kWeight.t(), at::Tensor());
  damaged->codes.fill_(0xff);
  damaged->codebook.set_data(damaged->codebook.slice(0, 0, 2));
  EXPECT_NE(error_of([&] { save_and_load(damaged, layer); }).find("`codes` up to 2, got 3"),
            std::string::npos);
  damaged->codes.set_data(at::tensor({1, 2, 3}, at::kByte));
  EXPECT_NE(error_of([&] { save_and_load(damaged, other); }).find("to be 6 codes of 2 bits"),
            std::string::npos);
  damaged->codebook.set_data(at::arange(4.0F));
  EXPECT_NE(error_of([&] { save_and_load(damaged, other); }).find("`codebook` [k] for codes of 2"),
            std::string::npos);
}

TEST(SharedLinear, PrintsWhatMatters) {
  std::ostringstream out;
  out << *SharedLinear(kWeight, kBias);
  EXPECT_EQ(out.str(),
            "pomona::nn::SharedLinear(in_features=3, out_features=2, centroids=3, has_zero=true, "
            "bits=2, bias=true)");
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
