#include "pomona/load_packed.h"

#include "pomona/error.h"
#include "pomona/io.h"
#include "pomona/nn.h"
#include "pomona/packed_attention.h"
#include "pomona/packed_rnn.h"

#include "error_of.h"
#include "temporary_folder.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/rand_like.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/rnn.h>
#include <torch/utils.h>

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace {

using pomona::nn::load_packed_;
using pomona::testing::error_of;
using pomona::testing::TemporaryFolder;
using Names = std::vector<std::string>;

// An embedding and a hidden layer that are pruned, and a last layer that is not; of two names.
torch::nn::Sequential trained() {
  torch::nn::Linear hidden(40, 30);
  torch::nn::Sequential model(torch::nn::Embedding(50, 40), hidden, torch::nn::ReLU(),
                              torch::nn::Linear(30, 6));
  const torch::NoGradGuard no_grad;
  for (const char* name : {"0.weight", "1.weight"}) {
    at::Tensor weight = model->named_parameters()[name];
    weight.masked_fill_(at::rand_like(weight) >= 0.1, 0);
  }
  model->eval();
  return model;
}

torch::nn::Sequential untrained() {
  torch::nn::Sequential model(torch::nn::Embedding(50, 40), torch::nn::Linear(40, 30),
                              torch::nn::ReLU(), torch::nn::Linear(30, 6));
  model->eval();
  return model;
}

const at::Tensor kTokens = at::randint(50, {2, 7}, at::kLong);

TEST(LoadPacked, GivesAModelThatComputesTheSame) {
  const torch::NoGradGuard no_grad;
  const TemporaryFolder folder;
  auto dense = trained();
  pomona::save(*dense, folder / "net.pomona");
  auto model = untrained();
  EXPECT_EQ(load_packed_(model, folder / "net.pomona"), (Names{"0", "1"}));
  EXPECT_NE(model[0]->as<pomona::nn::PackedEmbeddingImpl>(), nullptr);
  EXPECT_NE(model[1]->as<pomona::nn::PackedLinearImpl>(), nullptr);
  EXPECT_NE(model[3]->as<torch::nn::LinearImpl>(), nullptr);
  EXPECT_FALSE(model[0]->is_training());
  EXPECT_TRUE(at::allclose(model->forward(kTokens), dense->forward(kTokens), 1e-5, 1e-6));
  EXPECT_TRUE(at::equal(model[3]->as<torch::nn::LinearImpl>()->weight,
                        dense[3]->as<torch::nn::LinearImpl>()->weight));
}

TEST(LoadPacked, TakesALayoutForLinearLayers) {
  const TemporaryFolder folder;
  pomona::save(*trained(), folder / "net.pomona");
  auto model = untrained();
  load_packed_(model, folder / "net.pomona", {.layout = pomona::Layout::kCsr16});
  EXPECT_EQ(model[1]->as<pomona::nn::PackedLinearImpl>()->options.layout, pomona::Layout::kCsr16);
  auto other = untrained();
  EXPECT_EQ(error_of([&] {
              load_packed_(other, folder / "net.pomona", {.layout = pomona::Layout::kPgv});
            }).substr(0, 43),
            "pack: expected `1.weight` to fit pgv in fp3");
  EXPECT_NE(other[0]->as<torch::nn::EmbeddingImpl>(), nullptr);
}

TEST(LoadPacked, ThePackedModelIsSavedAsTheDenseOne) {
  const TemporaryFolder folder;
  auto dense = trained(), model = untrained(), again = untrained();
  pomona::save(*dense, folder / "net.pomona");
  load_packed_(model, folder / "net.pomona");
  pomona::save(*model, folder / "packed.pomona");
  pomona::load_(*again, folder / "packed.pomona");
  for (const auto& item : dense->named_parameters()) {
    EXPECT_TRUE(at::equal(again->named_parameters()[item.key()], item.value())) << item.key();
  }
  pomona::load_(*model, folder / "packed.pomona");  // and back into packed layers
  EXPECT_TRUE(at::equal(model[0]->as<pomona::nn::PackedEmbeddingImpl>()->weight(),
                        dense->named_parameters()["0.weight"]));
}

// A module that calls a layer which stands elsewhere as well.
struct Holder : torch::nn::Module {
  explicit Holder(torch::nn::Linear layer) : inner(register_module("inner", layer)) {}
  at::Tensor forward(const at::Tensor& input) { return inner->forward(input); }

  torch::nn::Linear inner;
};

TEST(LoadPacked, LeavesWhatOthersReadOrWhatWouldGrow) {
  const TemporaryFolder folder;
  const torch::NoGradGuard no_grad;
  const auto make = [] {
    auto shared = torch::nn::Linear(40, 40);
    return torch::nn::Sequential(
        torch::nn::Embedding(torch::nn::EmbeddingOptions(50, 40).max_norm(1.0)),
        std::make_shared<Holder>(shared), shared, torch::nn::Embedding(50, 40));
  };
  auto dense = make(), model = make();
  for (auto& item : dense->named_parameters()) {
    // Half of the embedding in 16 bits is smaller dense: positions take 16 bits as well.
    item.value().masked_fill_(at::rand_like(item.value()) >= 0.45, 0);
  }
  for (auto* sequential : {&dense, &model}) (*sequential)[3]->to(at::kHalf);
  pomona::save(*dense, folder / "net.pomona");
  EXPECT_EQ(load_packed_(model, folder / "net.pomona"), Names{"2"});
  EXPECT_NE(model[0]->as<torch::nn::EmbeddingImpl>(), nullptr);
  EXPECT_NE(model[3]->as<torch::nn::EmbeddingImpl>(), nullptr);
  // The layer inside another module stays, and is loaded.
  EXPECT_TRUE(at::equal(model->named_parameters()["1.inner.weight"],
                        dense->named_parameters()["1.inner.weight"]));
}

// Prunes every matrix of a layer to a third; saves it and loads it packed into another like it.
template <class Packed, class Layer, class... Inputs>
void expect_whole(const Layer& dense_layer, const Layer& layer, const Inputs&... inputs) {
  const torch::NoGradGuard no_grad;
  const TemporaryFolder folder;
  torch::nn::Sequential dense(dense_layer), model(layer);
  for (auto& item : dense->named_parameters()) {
    if (item.key().find("weight") == std::string::npos) continue;
    item.value().masked_fill_(at::rand_like(item.value()) >= 0.3, 0);
  }
  dense->eval();
  model->eval();
  pomona::save(*dense, folder / "net.pomona");
  EXPECT_EQ(load_packed_(model, folder / "net.pomona"), Names{"0"});
  auto* packed = model[0]->template as<typename Packed::ContainedType>();
  ASSERT_NE(packed, nullptr);
  EXPECT_FALSE(packed->is_training());
  EXPECT_TRUE(at::allclose(std::get<0>(packed->forward(inputs...)),
                           std::get<0>(dense_layer.ptr()->forward(inputs...)), 1e-4, 1e-5));
}

TEST(LoadPacked, PacksLayersOfSeveralMatrices) {
  const at::Tensor x = at::randn({5, 2, 24});
  const auto lstm = [] {
    return torch::nn::LSTM(
        torch::nn::LSTMOptions(24, 16).num_layers(2).bidirectional(true).proj_size(8));
  };
  expect_whole<pomona::nn::PackedLSTM>(lstm(), lstm(), x);
  expect_whole<pomona::nn::PackedGRU>(torch::nn::GRU(24, 16), torch::nn::GRU(24, 16), x);
  const auto attention = [](bool has_bias) {
    return torch::nn::MultiheadAttention(
        torch::nn::MultiheadAttentionOptions(24, 4).bias(has_bias));
  };
  for (const bool has_bias : {true, false}) {
    expect_whole<pomona::nn::PackedMultiheadAttention>(attention(has_bias), attention(has_bias), x,
                                                       x, x);
  }
  const auto of_other_sizes = [] {
    return torch::nn::MultiheadAttention(
        torch::nn::MultiheadAttentionOptions(24, 4).kdim(10).vdim(10));
  };
  const at::Tensor other = at::randn({7, 2, 10});
  expect_whole<pomona::nn::PackedMultiheadAttention>(of_other_sizes(), of_other_sizes(), x, other,
                                                     other);
}

TEST(LoadPacked, LeavesALayerOneOfWhoseMatricesIsDense) {
  const TemporaryFolder folder;
  const torch::NoGradGuard no_grad;
  torch::nn::LSTM lstm(24, 16);
  torch::nn::Sequential dense(lstm), model(torch::nn::LSTM(24, 16));
  lstm->named_parameters()["weight_ih_l0"].masked_fill_(
      at::rand_like(lstm->named_parameters()["weight_ih_l0"]) >= 0.3, 0);
  pomona::save(*dense, folder / "net.pomona");
  EXPECT_EQ(load_packed_(model, folder / "net.pomona"), Names{});
  EXPECT_TRUE(at::equal(model->named_parameters()["0.weight_hh_l0"],
                        dense->named_parameters()["0.weight_hh_l0"]));
}

TEST(LoadPacked, PacksNoWeightThatAnotherLayerReads) {
  const TemporaryFolder folder;
  torch::nn::Linear first(40, 40), second(40, 40);
  torch::nn::Sequential model(first, second);
  const torch::NoGradGuard no_grad;
  for (auto& weight : {first->weight, second->weight}) weight.masked_fill_(weight > -0.1, 0);
  pomona::save(*model, folder / "net.pomona");
  second->weight = first->weight;
  EXPECT_EQ(load_packed_(model, folder / "net.pomona"), Names{});
}

TEST(LoadPacked, KeepsWhatItPackedInACache) {
  const TemporaryFolder folder;
  const torch::NoGradGuard no_grad;
  auto dense = trained();
  pomona::save(*dense, folder / "net.pomona");
  auto first = untrained(), second = untrained(), third = untrained();
  load_packed_(first, folder / "net.pomona", {}, folder / "cache");
  const auto written = std::filesystem::last_write_time(folder / "cache");
  EXPECT_EQ(load_packed_(second, folder / "net.pomona", {}, folder / "cache"), (Names{"0", "1"}));
  EXPECT_EQ(std::filesystem::last_write_time(folder / "cache"), written);
  const auto expected = dense->forward(kTokens);
  EXPECT_TRUE(at::allclose(second->forward(kTokens), expected, 1e-5, 1e-6));
  // Of another way to pack: written anew. What was mapped stays as it is.
  load_packed_(third, folder / "net.pomona", {.layout = pomona::Layout::kCsr16}, folder / "cache");
  EXPECT_EQ(third[1]->as<pomona::nn::PackedLinearImpl>()->options.layout, pomona::Layout::kCsr16);
  EXPECT_TRUE(at::allclose(second->forward(kTokens), expected, 1e-5, 1e-6));
  // One that cannot be written is left.
  auto fourth = untrained();
  EXPECT_EQ(load_packed_(fourth, folder / "net.pomona", {}, folder / "none" / "cache"),
            (Names{"0", "1"}));
}

TEST(LoadPacked, TheCacheIsMappedAndMayBeWrittenTo) {
  const TemporaryFolder folder;
  const torch::NoGradGuard no_grad;
  pomona::save(*trained(), folder / "net.pomona");
  auto first = untrained(), second = untrained();
  load_packed_(first, folder / "net.pomona", {}, folder / "cache");
  const std::string before = pomona::testing::contents_of(folder / "cache");
  load_packed_(second, folder / "net.pomona", {}, folder / "cache");
  auto* layer = second[1]->as<pomona::nn::PackedLinearImpl>();
  EXPECT_TRUE(at::equal(layer->packed, first[1]->as<pomona::nn::PackedLinearImpl>()->packed));
  layer->bias.fill_(3);
  layer->packed.fill_(0);
  EXPECT_EQ(pomona::testing::contents_of(folder / "cache"), before);
}

TEST(LoadPacked, ListsEveryDifferenceAndLeavesTheModel) {
  const TemporaryFolder folder;
  pomona::save(*trained(), folder / "net.pomona");
  torch::nn::Sequential model(torch::nn::Embedding(50, 41), torch::nn::Linear(40, 30),
                              torch::nn::ReLU(), torch::nn::ReLU(), torch::nn::Linear(3, 2));
  EXPECT_EQ(error_of([&] { load_packed_(model, folder / "net.pomona"); }),
            "load_packed_: expected the tensors of the model, name by name, got missing: "
            "4.weight, 4.bias; unexpected: 3.weight, 3.bias; wrong shape: 0.weight ([50, 40], the "
            "model has [50, 41]). The model is as it was.");
  EXPECT_NE(model[1]->as<torch::nn::LinearImpl>(), nullptr);
}

TEST(LoadPacked, ADamagedFileLeavesTheModel) {
  const TemporaryFolder folder;
  auto dense = trained();
  pomona::save(*dense, folder / "net.pomona");
  std::string bytes = pomona::testing::contents_of(folder / "net.pomona");
  bytes[100] = static_cast<char>(bytes[100] ^ 1);
  pomona::testing::write_contents(folder / "net.pomona", bytes);
  auto model = untrained();
  const at::Tensor before = model->named_parameters()["3.weight"].clone();
  EXPECT_THROW(load_packed_(model, folder / "net.pomona"), pomona::CorruptFile);
  EXPECT_NE(model[0]->as<torch::nn::EmbeddingImpl>(), nullptr);
  EXPECT_TRUE(at::equal(model->named_parameters()["3.weight"], before));
}

}  // namespace
