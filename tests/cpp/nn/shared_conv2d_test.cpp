#include "pomona/error.h"
#include "pomona/nn.h"

#include "error_of.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <torch/serialize.h>

#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

namespace {

using pomona::nn::SharedConv2d;
using pomona::testing::error_of;
using torch::nn::Conv2dOptions;

// What tests/python/nn/test_shared_conv2d.py holds as well: the two languages agree byte for byte.
const at::Tensor kWeight = at::tensor({0.0F, 0.5F, -1.0F, 0.5F, 0.0F, 2.0F}).reshape({2, 1, 1, 3});
const at::Tensor kBias = at::tensor({0.25F, -1.0F});
const at::Tensor kInput = at::arange(12.0F).reshape({1, 2, 2, 3});
const at::Tensor kOutput = at::tensor({-0.75F, -1.25F, 0.25F, -2.25F, -2.75F, -1.25F, 16.5F, 18.0F,
                                       16.5F, 24.0F, 25.5F, 24.0F})
                               .reshape({1, 2, 2, 3});

Conv2dOptions options() {
  return Conv2dOptions(2, 2, {1, 3}).groups(2).padding(torch::kSame).padding_mode(torch::kReflect);
}

TEST(SharedConv2d, AgreesWithPythonByteForByte) {
  SharedConv2d layer(kWeight, kBias, options());
  EXPECT_TRUE(layer->has_zero);
  EXPECT_TRUE(at::equal(layer->codebook, at::tensor({-1.0F, 0.5F, 2.0F})));
  EXPECT_TRUE(at::equal(layer->codes, at::tensor({0b10'01'10'00, 0b11'00}, at::kByte)));
  EXPECT_EQ(layer->named_parameters().keys(), (std::vector<std::string>{"codebook", "bias"}));
  EXPECT_EQ(layer->named_buffers().keys(), std::vector<std::string>{"codes"});
  EXPECT_TRUE(at::equal(layer(kInput), kOutput));
}

// A Conv2d whose weights take the values -1, 0 and 1.
torch::nn::Conv2d signs(const Conv2dOptions& conv_options) {
  torch::nn::Conv2d conv(conv_options);
  const at::NoGradGuard no_grad;
  conv->weight.mul_(20).round_().sign_();
  return conv;
}

TEST(SharedConv2d, GivesTheOutputsOfConv2dUnderEveryOption) {
  const at::Tensor input = at::arange(2.0F * 4 * 7 * 6).sin().reshape({2, 4, 7, 6});
  const Conv2dOptions base(4, 6, 3);
  const std::vector<Conv2dOptions> all = {
      base,
      Conv2dOptions(base).stride({2, 1}),
      Conv2dOptions(base).padding({2, 1}).dilation({1, 2}),
      Conv2dOptions(base).padding(torch::kValid),
      Conv2dOptions(base).padding(torch::kSame).dilation(2),
      Conv2dOptions(base).groups(2).bias(false),
      Conv2dOptions(base).padding({2, 1}).padding_mode(torch::kReflect),
      Conv2dOptions(base).padding({2, 1}).padding_mode(torch::kReplicate),
      Conv2dOptions(base).padding({2, 1}).padding_mode(torch::kCircular),
      Conv2dOptions(base).padding(torch::kSame).padding_mode(torch::kCircular),
      Conv2dOptions(base).padding(torch::kValid).padding_mode(torch::kReflect),
  };
  for (const Conv2dOptions& conv_options : all) {
    torch::nn::Conv2d conv = signs(conv_options);
    SharedConv2d layer(conv);
    EXPECT_TRUE(at::equal(layer(input), conv(input))) << *conv;
    EXPECT_TRUE(at::equal(layer(input[0]), conv(input[0]))) << *conv;
  }
}

TEST(SharedConv2d, TrainsItsCodebookAndNotItsZeros) {
  torch::nn::Conv2d conv = signs(Conv2dOptions(2, 3, 3));
  SharedConv2d layer(conv);
  const at::Tensor input = at::arange(2.0F * 5 * 5).sin().reshape({1, 2, 5, 5});
  layer(input).square().sum().backward();
  conv(input).square().sum().backward();
  for (const int64_t i : {0, 1}) {
    const at::Tensor members = conv->weight.eq(layer->codebook[i]);
    const at::Tensor expected = conv->weight.grad().masked_select(members).sum();
    EXPECT_TRUE(at::allclose(layer->codebook.grad()[i], expected));
  }
  EXPECT_EQ(layer->codebook.numel(), 2);
}

TEST(SharedConv2d, AClonedLayerIsIndependent) {
  SharedConv2d layer(kWeight, kBias, options());
  const auto copy = std::dynamic_pointer_cast<pomona::nn::SharedConv2dImpl>(layer->clone());
  {
    const at::NoGradGuard no_grad;
    layer->codebook.zero_();
    layer->bias.zero_();
  }
  EXPECT_TRUE(at::equal(copy->forward(kInput), kOutput));
}

TEST(SharedConv2d, IsReadBackFromAnArchiveAndRefusesOtherCodes) {
  SharedConv2d layer(kWeight, kBias, options()), other(kWeight * 2, kBias * 2, options());
  std::stringstream stream;
  torch::save(layer, stream);
  torch::load(other, stream);
  EXPECT_TRUE(at::equal(other(kInput), kOutput));
  layer->codes.fill_(0xff);
  layer->codebook.set_data(layer->codebook.slice(0, 0, 2));
  std::stringstream damaged;
  torch::save(layer, damaged);
  EXPECT_NE(error_of([&] {
              torch::load(other, damaged);
            }).find("SharedConv2d: expected `codes` up to 2, got 3"),
            std::string::npos);
}

TEST(SharedConv2d, PrintsWhatMatters) {
  std::ostringstream out;
  out << *SharedConv2d(kWeight, kBias, options());
  EXPECT_EQ(out.str(),
            "pomona::nn::SharedConv2d(in_channels=2, out_channels=2, kernel_size=[1, 3], "
            "stride=[1, 1], padding='same', dilation=[1, 1], groups=2, padding_mode=kReflect, "
            "centroids=3, has_zero=true, bits=2, bias=true)");
}

void expect_refused(const at::Tensor& weight, const Conv2dOptions& conv_options,
                    const std::string& message) {
  const std::string error = error_of([&] { SharedConv2d(weight, at::Tensor(), conv_options); });
  EXPECT_NE(error.find(message), std::string::npos) << error;
}

TEST(SharedConv2d, RefusesWhatItCannotHold) {
  expect_refused(at::arange(289.0F).reshape({1, 1, 17, 17}), Conv2dOptions(1, 1, 17),
                 "SharedConv2d: expected `weight` to have at most 256 distinct values, got 289");
  expect_refused(kWeight / 0, options(), "finite, got NaN or Inf");
  expect_refused(kBias, options(),
                 "floating-point [out, in / groups, height, width], got Float [2]");
}

TEST(SharedConv2d, RefusesOptionsOfAnotherWeight) {
  expect_refused(kWeight, options().groups(1), "`weight` to be [2, 2, 1, 3] as in `options`");
  expect_refused(kWeight, options().groups(3), "`groups` to divide `in_channels` and");
  expect_refused(kWeight, options().groups(0), "(2, 2), got 0");
  expect_refused(kWeight, options().stride(2), "`stride` to be 1 with padding kSame, got [2, 2]");
}

}  // namespace
