#include "pomona/packed_attention.h"

#include "pomona/error.h"

#include "base/text.h"
#include "nn/registered_copy.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <limits>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

namespace pomona::nn {
namespace {

const torch::nn::MultiheadAttentionImpl& checked(const torch::nn::MultiheadAttention& attention) {
  if (attention->bias_k.defined() || attention->options.add_zero_attn()) {
    throw InvalidArgument(
        "PackedMultiheadAttention: expected `attention` without add_bias_kv and add_zero_attn, got "
        "one with.");
  }
  return *attention;
}

// The matrices of query, key and value.
std::vector<at::Tensor> inputs_of(const torch::nn::MultiheadAttentionImpl& attention,
                                  const Projections& projections) {
  if (attention.in_proj_weight.defined()) return projections.packed("in_proj_weight", 3);
  std::vector<at::Tensor> matrices;
  for (const char* name : {"q_proj_weight", "k_proj_weight", "v_proj_weight"}) {
    matrices.push_back(projections.packed(name, 1).front());
  }
  return matrices;
}

// What is added to the scores.
at::Tensor added(const at::Tensor& mask, at::ScalarType dtype) {
  if (mask.scalar_type() != at::kBool) return mask.to(dtype);
  return at::zeros_like(mask, dtype).masked_fill_(mask, -std::numeric_limits<double>::infinity());
}

// (softmax(q k^T / sqrt(d) + bias) v, and that softmax if it is wanted), [batch, heads, steps,
// ...].
std::tuple<at::Tensor, at::Tensor> attend(const at::Tensor& q, const at::Tensor& k,
                                          const at::Tensor& v, const at::Tensor& bias,
                                          bool need_weights) {
  if (!need_weights) {
    const auto mask = bias.defined() ? std::optional(bias) : std::nullopt;
    return {at::scaled_dot_product_attention(q, k, v, mask), at::Tensor()};
  }
  const double scale = 1 / std::sqrt(static_cast<double>(q.size(-1)));
  const at::Tensor scores = q.matmul(k.transpose(-2, -1)) * scale;
  const at::Tensor weights = (bias.defined() ? scores + bias : scores).softmax(-1);
  return {weights.matmul(v), weights};
}

}  // namespace

PackedMultiheadAttentionImpl::PackedMultiheadAttentionImpl(
    const torch::nn::MultiheadAttention& attention, const Packing& packing, bool is_batch_first)
    : PackedMultiheadAttentionImpl(attention, projections_of(*attention, packing), is_batch_first) {
  to(attention->parameters().front().device());
}

PackedMultiheadAttentionImpl::PackedMultiheadAttentionImpl(
    const torch::nn::MultiheadAttention& attention, const Projections& projections,
    bool is_batch_first)
    : embed_dim(attention->options.embed_dim()),
      num_heads(attention->options.num_heads()),
      kdim(attention->options.kdim()),
      vdim(attention->options.vdim()),
      batch_first(is_batch_first) {
  const auto& dense = checked(attention);
  const auto project = [&](const char* name, const at::Tensor& packed, const at::Tensor& bias) {
    return PackedLinear(register_module(name, PackedLinearImpl::from_packed(packed, bias)));
  };
  const auto matrices = inputs_of(dense, projections);
  const at::Tensor bias = projections.bias("in_proj_bias");
  std::vector<at::Tensor> biases(3);
  if (bias.defined()) {
    biases = bias.chunk(3);
    for (at::Tensor& part : biases) part = part.clone();
  }
  q_proj = project("q_proj", matrices[0], biases[0]);
  k_proj = project("k_proj", matrices[1], biases[1]);
  v_proj = project("v_proj", matrices[2], biases[2]);
  out_proj = project("out_proj", projections.packed("out_proj.weight", 1).front(),
                     projections.bias("out_proj.bias"));
  train(dense.is_training());
}

void PackedMultiheadAttentionImpl::reset() {
  q_proj = registered_copy(*this, "q_proj", q_proj);
  k_proj = registered_copy(*this, "k_proj", k_proj);
  v_proj = registered_copy(*this, "v_proj", v_proj);
  out_proj = registered_copy(*this, "out_proj", out_proj);
}

void PackedMultiheadAttentionImpl::pretty_print(std::ostream& stream) const {
  stream << "pomona::nn::PackedMultiheadAttention(" << embed_dim << ", " << num_heads
         << (batch_first ? ", batch_first" : "") << ")";
}

void PackedMultiheadAttentionImpl::check_input(const char* name, const at::Tensor& input,
                                               int64_t size) const {
  if ((input.dim() == 2 || input.dim() == 3) && input.size(-1) == size) return;
  throw InvalidArgument(text("PackedMultiheadAttention: expected `", name, "` of shape [steps, ",
                             size, "], or of three dimensions with a batch, got ", input.sizes(),
                             "."));
}

// [batch, steps, embed_dim] -> [batch, heads, steps, embed_dim / heads].
at::Tensor PackedMultiheadAttentionImpl::heads(const at::Tensor& projected) const {
  return projected.unflatten(-1, {num_heads, embed_dim / num_heads}).transpose(1, 2);
}

// Both masks as one that is added to the scores [batch, heads, steps, keys]; may be undefined.
at::Tensor PackedMultiheadAttentionImpl::mask(const at::Tensor& attn_mask,
                                              const at::Tensor& key_padding_mask,
                                              at::ScalarType dtype) const {
  at::Tensor sum;
  if (attn_mask.defined()) {
    sum = added(attn_mask, dtype);
    if (sum.dim() == 3) sum = sum.unflatten(0, {-1, num_heads});
  }
  if (!key_padding_mask.defined()) return sum;
  const at::Tensor padding = added(key_padding_mask, dtype).unsqueeze(1).unsqueeze(1);
  return sum.defined() ? sum + padding : padding;
}

std::tuple<at::Tensor, at::Tensor> PackedMultiheadAttentionImpl::forward(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
    const at::Tensor& key_padding_mask, bool need_weights, const at::Tensor& attn_mask,
    bool average_attn_weights, bool is_causal) {
  check_input("query", query, embed_dim);
  check_input("key", key, kdim);
  check_input("value", value, vdim);
  if (is_causal && !attn_mask.defined()) {
    throw InvalidArgument(
        "PackedMultiheadAttention: expected `attn_mask` with is_causal, got none.");
  }
  const bool is_single = query.dim() == 2;
  const auto batched = [&](const at::Tensor& x) {
    return is_single ? x.unsqueeze(0) : batch_first ? x : x.transpose(0, 1);
  };
  const at::Tensor q = heads(q_proj->forward(batched(query)));
  const at::Tensor k = heads(k_proj->forward(batched(key)));
  const at::Tensor v = heads(v_proj->forward(batched(value)));
  const bool has_one_padding = is_single && key_padding_mask.defined();
  const at::Tensor bias =
      mask(attn_mask, has_one_padding ? key_padding_mask.unsqueeze(0) : key_padding_mask,
           q.scalar_type());
  auto [mixed, weights] = attend(q, k, v, bias, need_weights);
  if (weights.defined() && average_attn_weights) weights = weights.mean(1);
  if (weights.defined() && is_single) weights = weights.squeeze(0);
  const at::Tensor output = out_proj->forward(mixed.transpose(1, 2).flatten(2));
  if (is_single) return {output.squeeze(0), weights};
  return {batch_first ? output : output.transpose(0, 1), weights};
}

}  // namespace pomona::nn
