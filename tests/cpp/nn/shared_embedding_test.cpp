#include "pomona/error.h"
#include "pomona/nn.h"

#include "error_of.h"

#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>
#include <torch/serialize.h>

#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

namespace {

using pomona::nn::SharedEmbedding;
using pomona::testing::error_of;
using torch::nn::EmbeddingOptions;

// What tests/python/nn/test_shared_embedding.py holds as well: the two languages agree byte for
// byte.
const at::Tensor kWeight =
    at::tensor({0.0F, 0.5F, -1.0F, 0.5F, 0.0F, 2.0F, 2.0F, -1.0F, 0.5F, 0.5F, 0.0F, 0.0F})
        .reshape({3, 4});
const at::Tensor kInput = at::tensor({2, 0}, at::kLong);

TEST(SharedEmbedding, AgreesWithPythonByteForByte) {
  SharedEmbedding layer(kWeight, -3);
  EXPECT_TRUE(layer->has_zero);
  EXPECT_EQ(layer->padding_idx, 0);
  EXPECT_TRUE(at::equal(layer->codebook, at::tensor({-1.0F, 0.5F, 2.0F})));
  EXPECT_TRUE(at::equal(layer->codes,
                        at::tensor({0b10'01'10'00, 0b01'11'11'00, 0b00'00'10'10}, at::kByte)));
  EXPECT_EQ(layer->named_parameters().keys(), std::vector<std::string>{"codebook"});
  EXPECT_EQ(layer->named_buffers().keys(), std::vector<std::string>{"codes"});
  const at::Tensor output = layer(kInput);
  EXPECT_TRUE(at::equal(
      output, at::tensor({0.5F, 0.5F, 0.0F, 0.0F, 0.0F, 0.5F, -1.0F, 0.5F}).reshape({2, 4})));
  output.sum().backward();  // row 0 is the padding: two 0.5 of row 2 remain
  EXPECT_TRUE(at::equal(layer->codebook.grad(), at::tensor({0.0F, 2.0F, 0.0F})));
}

// Rows of 8 weights are whole bytes at any width of a code, rows of 7 at 8 bits only.
TEST(SharedEmbedding, GivesTheOutputsAndGradientsOfEmbedding) {
  for (const int64_t dim : {7, 8}) {
    for (const int64_t values : {2, 3, 12, 40}) {
      torch::nn::Embedding dense(EmbeddingOptions(11, dim).padding_idx(4));
      dense->weight.set_data(at::randint(values, {11, dim}).to(at::kDouble) - 1);
      SharedEmbedding layer(dense);
      const at::Tensor input = at::tensor({3, 4, 4, 10, 3, 0}, at::kLong).reshape({2, 3});
      EXPECT_TRUE(at::equal(layer(input), dense(input)));
      const at::Tensor grad = at::arange(6 * dim, at::kDouble).sin().reshape({2, 3, dim});
      layer(input).backward(grad);
      dense(input).backward(grad);
      for (int64_t i = 0; i < layer->codebook.numel(); ++i) {
        const at::Tensor members = dense->weight.eq(layer->codebook[i]);
        const at::Tensor expected = dense->weight.grad().masked_select(members).sum();
        EXPECT_TRUE(at::allclose(layer->codebook.grad()[i], expected));
      }
    }
  }
}

TEST(SharedEmbedding, GivesTheDTypeOfItsCodebookUnderAutocast) {
  SharedEmbedding layer(kWeight), odd(kWeight.slice(1, 0, 3));
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const auto dtypes = {layer(kInput).scalar_type(), odd(kInput).scalar_type()};
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  for (const at::ScalarType dtype : dtypes) EXPECT_EQ(dtype, at::kFloat);
}

TEST(SharedEmbedding, AClonedLayerIsIndependent) {
  SharedEmbedding layer(kWeight, 1);
  const auto copy = std::dynamic_pointer_cast<pomona::nn::SharedEmbeddingImpl>(layer->clone());
  {
    const at::NoGradGuard no_grad;
    layer->codebook.zero_();
  }
  EXPECT_TRUE(at::equal(copy->weight(), kWeight));
  EXPECT_EQ(copy->padding_idx, 1);
}

TEST(SharedEmbedding, IsReadBackFromAnArchiveAndRefusesOtherCodes) {
  SharedEmbedding layer(kWeight), other(kWeight * 2);
  std::stringstream stream;
  torch::save(layer, stream);
  torch::load(other, stream);
  EXPECT_TRUE(at::equal(other->weight(), kWeight));
  layer->codes.fill_(0xff);
  layer->codebook.set_data(layer->codebook.slice(0, 0, 2));
  std::stringstream damaged;
  torch::save(layer, damaged);
  EXPECT_NE(error_of([&] {
              torch::load(other, damaged);
            }).find("SharedEmbedding: expected `codes` up to 2, got 3"),
            std::string::npos);
}

TEST(SharedEmbedding, PrintsWhatMatters) {
  std::ostringstream out;
  out << *SharedEmbedding(kWeight) << *SharedEmbedding(kWeight, 2);
  EXPECT_EQ(out.str(),
            "pomona::nn::SharedEmbedding(num_embeddings=3, embedding_dim=4, padding_idx=None, "
            "centroids=3, has_zero=true, bits=2)"
            "pomona::nn::SharedEmbedding(num_embeddings=3, embedding_dim=4, padding_idx=2, "
            "centroids=3, has_zero=true, bits=2)");
}

TEST(SharedEmbedding, RefusesWhatItCannotHold) {
  const auto make = [](const at::Tensor& weight) { SharedEmbedding layer(weight); };
  EXPECT_NE(error_of([&] {
              make(at::arange(289.0F).reshape({17, 17}));
            })
                .find("SharedEmbedding: expected `weight` to have at most 256 distinct values, got "
                      "289"),
            std::string::npos);
  EXPECT_NE(error_of([&] { make(kWeight / 0); }).find("finite, got NaN or Inf"), std::string::npos);
  EXPECT_NE(error_of([&] {
              make(kInput);
            }).find("floating-point [num_embeddings, embedding_dim], got Long [2]"),
            std::string::npos);
  for (const int64_t row : {-4, 3}) {
    const std::string error = error_of([&] { SharedEmbedding(kWeight, row); });
    EXPECT_EQ(error,
              "SharedEmbedding: expected `padding_idx` in -3..2, got " + std::to_string(row) + ".");
  }
}

TEST(SharedEmbedding, RefusesAnEmbeddingThatChangesItsRowsOrItsGradient) {
  const auto message = [](const EmbeddingOptions& options) {
    return error_of([&] { SharedEmbedding layer{torch::nn::Embedding(options)}; });
  };
  EXPECT_NE(message(EmbeddingOptions(2, 2).max_norm(1)).find("without `max_norm`"),
            std::string::npos);
  EXPECT_NE(
      message(EmbeddingOptions(2, 2).scale_grad_by_freq(true)).find("without `scale_grad_by_freq`"),
      std::string::npos);
  EXPECT_NE(message(EmbeddingOptions(2, 2).sparse(true)).find("without `sparse`"),
            std::string::npos);
}

}  // namespace
