#include "pomona/packed_attention.h"

#include "pomona/error.h"

#include "error_of.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand_like.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/serialize.h>
#include <torch/utils.h>

#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace {

using pomona::nn::PackedMultiheadAttention;
using pomona::testing::error_of;
using Options = torch::nn::MultiheadAttentionOptions;

// Pruned to a third, few values.
torch::nn::MultiheadAttention attention(const Options& options = Options(8, 2)) {
  torch::nn::MultiheadAttention module(options);
  const torch::NoGradGuard no_grad;
  for (auto& item : module->named_parameters()) {
    if (!item.value().defined()) continue;
    item.value().normal_().mul_(4).round_().div_(8);
    if (item.key().find("weight") != std::string::npos) {
      item.value().masked_fill_(at::rand_like(item.value()) >= 0.3, 0);
    }
  }
  module->eval();
  return module;
}

using Output = std::tuple<at::Tensor, at::Tensor>;

void expect_same(const Output& ours, const Output& theirs) {
  EXPECT_TRUE(at::allclose(std::get<0>(ours), std::get<0>(theirs), 1e-5, 1e-5));
  ASSERT_EQ(std::get<1>(ours).defined(), std::get<1>(theirs).defined());
  if (!std::get<1>(ours).defined()) return;
  EXPECT_TRUE(at::allclose(std::get<1>(ours), std::get<1>(theirs), 1e-5, 1e-5));
}

TEST(PackedMultiheadAttention, GivesWhatTorchGives) {
  const torch::NoGradGuard no_grad;
  // LibTorch takes keys and values of one size only.
  for (const auto& options : {Options(8, 2), Options(8, 2).bias(false),
                              Options(8, 2).kdim(5).vdim(5), Options(8, 2).dropout(0.5)}) {
    auto module = attention(options);
    PackedMultiheadAttention packed(module);
    const at::Tensor query = at::randn({4, 3, 8}), key = at::randn({6, 3, options.kdim()}),
                     value = at::randn({6, 3, options.vdim()});
    for (const bool need_weights : {true, false}) {
      expect_same(packed->forward(query, key, value, {}, need_weights),
                  module->forward(query, key, value, {}, need_weights));
    }
  }
}

TEST(PackedMultiheadAttention, TakesTheBatchFirstOrNone) {
  const torch::NoGradGuard no_grad;
  auto module = attention();
  PackedMultiheadAttention packed(module), first(module, pomona::Packing{}, /*batch_first=*/true);
  const at::Tensor x = at::randn({5, 3, 8}), y = x.transpose(0, 1);
  const auto [output, weights] = packed->forward(x, x, x);
  const auto [output_first, weights_first] = first->forward(y, y, y);
  EXPECT_TRUE(at::allclose(output_first.transpose(0, 1), output, 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(weights_first, weights, 1e-5, 1e-6));
  const auto [one, one_weights] = packed->forward(y[1], y[1], y[1]);
  EXPECT_TRUE(at::allclose(one, output.select(1, 1), 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(one_weights, weights[1], 1e-5, 1e-6));
}

TEST(PackedMultiheadAttention, TakesMasksOfBothKinds) {
  const torch::NoGradGuard no_grad;
  auto module = attention();
  PackedMultiheadAttention packed(module);
  const at::Tensor x = at::randn({4, 3, 8}), none;
  // LibTorch adds a bool attn_mask as a number, so it is given this one instead.
  const at::Tensor causal = at::ones({4, 4}, at::kBool).triu(1);
  const at::Tensor added = at::zeros({4, 4}).masked_fill(causal, -1e30), any = at::randn({4, 4});
  at::Tensor padding = at::zeros({3, 4}, at::kBool);
  padding[1][2] = true;
  padding[2][3] = true;
  for (const auto& [ours, theirs] : {std::pair(none, none), {any, any}, {causal, added}}) {
    for (const at::Tensor& keys : {none, padding}) {
      for (const bool need_weights : {true, false}) {
        expect_same(packed->forward(x, x, x, keys, need_weights, ours, /*average=*/false),
                    module->forward(x, x, x, keys, need_weights, theirs, /*average=*/false));
      }
    }
  }
  const at::Tensor one = x.select(1, 1);
  EXPECT_TRUE(at::allclose(std::get<0>(packed->forward(one, one, one, padding[1])),
                           std::get<0>(packed->forward(x, x, x, padding)).select(1, 1), 1e-5,
                           1e-6));
}

TEST(PackedMultiheadAttention, TakesAMaskForEachHead) {
  const torch::NoGradGuard no_grad;
  auto module = attention();
  PackedMultiheadAttention packed(module);
  const at::Tensor x = at::randn({4, 3, 8}), masks = at::randn({6, 4, 4}), none;
  const auto [output, weights] = packed->forward(x, x, x, none, true, masks, /*average=*/false);
  for (int64_t i = 0; i < 6; ++i) {  // LibTorch takes one mask for all
    const auto [_, expected] = module->forward(x, x, x, none, true, masks[i], /*average=*/false);
    EXPECT_TRUE(at::allclose(weights[i / 2][i % 2], expected[i / 2][i % 2], 1e-5, 1e-5));
  }
}

TEST(PackedMultiheadAttention, HasTheNamesOfPythonAndNoParameter) {
  PackedMultiheadAttention packed(attention());
  std::vector<std::string> names;
  for (const auto& item : packed->named_buffers()) names.push_back(item.key());
  EXPECT_EQ(names, (std::vector<std::string>{"q_proj.packed", "q_proj.bias", "k_proj.packed",
                                             "k_proj.bias", "v_proj.packed", "v_proj.bias",
                                             "out_proj.packed", "out_proj.bias"}));
  EXPECT_TRUE(packed->parameters().empty());
}

TEST(PackedMultiheadAttention, IsClonedAndComesBackFromAnArchive) {
  PackedMultiheadAttention packed(attention()), other(attention());
  const at::Tensor x = at::randn({4, 2, 8}), before = std::get<0>(packed->forward(x, x, x));
  std::stringstream stream;
  torch::save(packed, stream);
  torch::load(other, stream);
  EXPECT_TRUE(at::equal(std::get<0>(other->forward(x, x, x)), before));
  const auto copy =
      std::dynamic_pointer_cast<pomona::nn::PackedMultiheadAttentionImpl>(packed->clone());
  EXPECT_TRUE(at::equal(std::get<0>(copy->forward(x, x, x)), before));
  for (at::Tensor& buffer : copy->buffers()) buffer.zero_();
  EXPECT_TRUE(at::equal(std::get<0>(packed->forward(x, x, x)), before));
}

TEST(PackedMultiheadAttention, RefusesWhatItCannotDo) {
  const std::string what = "PackedMultiheadAttention: expected ";
  for (const auto& options : {Options(8, 2).add_bias_kv(true), Options(8, 2).add_zero_attn(true)}) {
    EXPECT_EQ(error_of([&] { PackedMultiheadAttention packed(attention(options)); }),
              what + "`attention` without add_bias_kv and add_zero_attn, got one with.");
  }
  PackedMultiheadAttention packed(attention());
  const at::Tensor x = at::zeros({4, 8}), bad = at::zeros({4, 7}), none;
  EXPECT_EQ(error_of([&] { packed->forward(x, bad, x); }),
            what + "`key` of shape [steps, 8], or of three dimensions with a batch, got [4, 7].");
  EXPECT_EQ(error_of([&] { packed->forward(x, x, x, none, true, none, true, true); }),
            what + "`attn_mask` with is_causal, got none.");
}

}  // namespace
