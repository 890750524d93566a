#include "pomona/error.h"
#include "pomona/io.h"
#include "pomona/nn.h"

#include "error_of.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/rand_like.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/zeros.h>
#include <torch/serialize.h>
#include <torch/utils.h>

#include <gtest/gtest.h>

#include <sstream>
#include <string>

namespace {

using pomona::nn::PackedEmbedding;
using pomona::testing::error_of;

torch::nn::Embedding sparse_embedding() {
  torch::nn::Embedding embedding(50, 12);
  const torch::NoGradGuard no_grad;
  embedding->weight.masked_fill_(at::rand_like(embedding->weight) >= 0.3, 0);
  return embedding;
}

TEST(PackedEmbedding, GivesTheRowsOfTheDenseTable) {
  auto embedding = sparse_embedding();
  PackedEmbedding packed(embedding);
  const at::Tensor tokens = at::randint(50, {2, 7}, at::kLong);
  EXPECT_TRUE(at::equal(packed->forward(tokens), embedding->forward(tokens)));
  EXPECT_TRUE(at::equal(packed->weight(), embedding->weight));
  EXPECT_TRUE(packed->parameters().empty());
}

TEST(PackedEmbedding, GivesTheDtypeOfTheWeightAndKeepsItsBytes) {
  const at::Tensor weight = sparse_embedding()->weight.detach().to(at::kBFloat16);
  PackedEmbedding packed(weight);
  torch::nn::Sequential model(packed);
  model->to(at::kDouble);
  const at::Tensor rows = packed->forward(at::arange(50));
  EXPECT_EQ(rows.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::equal(rows, weight));
}

TEST(PackedEmbedding, CloneIsACopyOfItsOwn) {
  PackedEmbedding packed(sparse_embedding());
  const auto copy = std::dynamic_pointer_cast<pomona::nn::PackedEmbeddingImpl>(packed->clone());
  const at::Tensor before = packed->forward(at::arange(50));
  copy->packed.zero_();
  EXPECT_TRUE(at::equal(packed->forward(at::arange(50)), before));
}

TEST(PackedEmbedding, ComesBackFromAnArchive) {
  PackedEmbedding packed(sparse_embedding()), other(at::zeros({50, 12})),
      wrong(at::zeros({49, 12}));
  std::stringstream stream;
  torch::save(packed, stream);
  torch::load(other, stream);
  EXPECT_TRUE(at::equal(other->forward(at::arange(50)), packed->forward(at::arange(50))));
  std::stringstream again(stream.str());
  EXPECT_EQ(error_of([&] { torch::load(wrong, again); }),
            "PackedEmbedding: expected `packed` of shape [49, 12], got [50, 12].");
}

TEST(PackedEmbedding, RefusesALayoutWhoseRowsCannotBeLookedUp) {
  PackedEmbedding packed(sparse_embedding());
  const at::Tensor tokens = at::arange(50), before = packed->forward(tokens);
  const at::Tensor weight = at::randint(-7, 8, {50, 12}).to(at::kFloat) / 8;
  for (const auto layout : {pomona::Layout::kPg32, pomona::Layout::kPgv}) {
    const bool is_fixed = layout == pomona::Layout::kPgv;
    const pomona::PackOptions options{
        .layout = layout,
        .precision = is_fixed ? pomona::Precision::kFixed16 : pomona::Precision::kFloat32};
    const auto message =
        std::string("PackedEmbedding: expected `packed` of layout csr16 or lut, got ") +
        (is_fixed ? "pgv." : "pg32.");
    std::stringstream stream;
    torch::save(pomona::nn::PackedLinear(weight, at::Tensor(), options), stream);
    EXPECT_EQ(error_of([&] { torch::load(packed, stream); }), message);
    EXPECT_TRUE(at::equal(packed->forward(tokens), before));
    const auto table = pomona::pack(pomona::to_weight("weight", weight), options);
    EXPECT_EQ(error_of([&] { PackedEmbedding other(table); }), message);
  }
}

TEST(PackedEmbedding, PacksAnotherTableOfItsShape) {
  PackedEmbedding packed(sparse_embedding());
  const at::Tensor weight = at::randint(-7, 8, {50, 12}).to(at::kFloat);
  packed->pack_weight_(weight);
  EXPECT_TRUE(at::equal(packed->weight(), weight));
  EXPECT_EQ(error_of([&] {
              packed->pack_weight_(at::zeros({50, 11}));
            }),
            "PackedEmbedding: expected `weight` of shape [50, 12], got [50, 11].");
}

TEST(PackedEmbedding, RefusesMaxNorm) {
  torch::nn::Embedding embedding(torch::nn::EmbeddingOptions(3, 2).max_norm(1.0));
  EXPECT_EQ(error_of([&] { PackedEmbedding packed(embedding); }),
            "PackedEmbedding: expected `embedding` without `max_norm`, got one. It would change "
            "rows.");
}

TEST(PackedEmbedding, RefusesAnIndexThatIsNoRow) {
  PackedEmbedding packed(sparse_embedding());
  EXPECT_THROW(packed->forward(at::arange(51)), c10::IndexError);
}

}  // namespace
