#include "nn/packed_twins.h"

#include "pomona/error.h"
#include "pomona/nn.h"
#include "pomona/packed_attention.h"
#include "pomona/packed_rnn.h"

#include "nn/replace.h"

#include <algorithm>
#include <optional>

namespace pomona::nn {
namespace {

using torch::nn::AnyModule;

bool is_packable_kind(torch::nn::Module& module) {
  if (const auto* attention = exactly<torch::nn::MultiheadAttentionImpl>(module)) {
    return !attention->bias_k.defined() && !attention->options.add_zero_attn();
  }
  return exactly<torch::nn::LinearImpl>(module) || exactly<torch::nn::LSTMImpl>(module) ||
         exactly<torch::nn::GRUImpl>(module);
}

std::vector<AnyModule> linear_twins(const torch::nn::Linear& linear, Precision precision) {
  const auto layouts = linear->weight.is_cpu()
                           ? layouts_for(to_weight("weight", linear->weight), precision)
                           : std::vector<PackOptions>{PackOptions{}};
  std::vector<AnyModule> twins;
  for (const auto& options : layouts) twins.emplace_back(PackedLinear(linear, options));
  return twins;
}

template <class PackedLayer, class Dense>
std::vector<AnyModule> whole_twins(const Dense& dense, Precision precision) {
  const bool is_on_cpu = dense->parameters().front().is_cpu();
  std::vector<std::optional<Layout>> layouts{std::nullopt};
  if (is_on_cpu && precision == Precision::kFloat32) layouts.emplace_back(Layout::kCsr16);
  std::vector<AnyModule> twins;
  try {
    for (const auto& layout : layouts) {
      twins.emplace_back(PackedLayer(dense, Packing{.layout = layout, .precision = precision}));
    }
  } catch (const InvalidArgument&) {  // a matrix that this precision has no layout for
    return {};
  }
  return twins;
}

}  // namespace

bool can_be_packed(torch::nn::Module& module) {
  if (!is_packable_kind(module)) return false;
  const auto is_packable = [](const auto& matrix) {
    const at::ScalarType dtype = matrix.second.scalar_type();
    return dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16;
  };
  return std::ranges::all_of(matrices_of(module), is_packable);
}

NamedTensors matrices_of(const torch::nn::Module& module) {
  NamedTensors matrices;
  for (const auto& item : module.named_parameters()) {
    if (item.key().find("weight") == std::string::npos || !item.value().defined()) continue;
    matrices.emplace_back(item.key(), item.value());
  }
  return matrices;
}

std::vector<AnyModule> packed_twins(const AnyModule& layer, Precision precision) {
  using namespace torch::nn;
  torch::nn::Module& module = *layer.ptr();
  if (exactly<LinearImpl>(module)) return linear_twins(Linear(layer.ptr<LinearImpl>()), precision);
  if (exactly<LSTMImpl>(module)) {
    return whole_twins<PackedLSTM>(LSTM(layer.ptr<LSTMImpl>()), precision);
  }
  if (exactly<GRUImpl>(module)) {
    return whole_twins<PackedGRU>(GRU(layer.ptr<GRUImpl>()), precision);
  }
  return whole_twins<PackedMultiheadAttention>(
      MultiheadAttention(layer.ptr<MultiheadAttentionImpl>()), precision);
}

}  // namespace pomona::nn
