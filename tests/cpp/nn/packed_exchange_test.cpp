// One half of tests/python/infer/test_packed_exchange.py.
#include "pomona/load_packed.h"
#include "pomona/nn.h"
#include "pomona/packed_attention.h"
#include "pomona/packed_rnn.h"

#include <ATen/ops/zeros.h>
#include <torch/serialize.h>

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace {

using namespace pomona::nn;

template <class Holder>
void read_and_write_back(Holder layer, const std::string& name) {
  const std::string folder = std::getenv("POMONA_EXCHANGE");
  torch::load(layer, folder + "/" + name + ".python.pt");
  torch::save(layer, folder + "/" + name + ".cpp.pt");
}

TEST(PackedExchange, WhatPythonWroteIsReadAndWrittenBack) {
  if (std::getenv("POMONA_EXCHANGE") == nullptr) GTEST_SKIP() << "Python starts this";
  read_and_write_back(PackedLinear(at::zeros({9, 12}), at::zeros({9})), "linear");
  read_and_write_back(PackedEmbedding(at::zeros({50, 12})), "embedding");
  const auto lstm = torch::nn::LSTMOptions(12, 9).num_layers(2).bidirectional(true).proj_size(4);
  read_and_write_back(PackedLSTM(torch::nn::LSTM(lstm)), "lstm");
  read_and_write_back(PackedGRU(torch::nn::GRU(torch::nn::GRUOptions(12, 9).bias(false))), "gru");
  const auto attention = torch::nn::MultiheadAttentionOptions(8, 2).kdim(5).vdim(3);
  read_and_write_back(PackedMultiheadAttention(torch::nn::MultiheadAttention(attention)),
                      "attention");
}

TEST(PackedExchange, ACacheOfPythonIsReadAndNotWrittenAnew) {
  if (std::getenv("POMONA_EXCHANGE") == nullptr) GTEST_SKIP() << "Python starts this";
  const std::string folder = std::getenv("POMONA_EXCHANGE");
  torch::nn::Sequential model(torch::nn::Embedding(50, 120), torch::nn::Linear(120, 8),
                              torch::nn::LSTM(8, 8), torch::nn::MultiheadAttention(8, 2));
  const auto packed =
      load_packed_(model, folder + "/net.pomona", {}, folder + "/net.pomona.packed");
  EXPECT_EQ(packed.size(), 4u);
}

}  // namespace
