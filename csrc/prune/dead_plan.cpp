#include "pomona/dead_plan.h"

#include "pomona/error.h"

#include "base/text.h"
#include "prune/carry_constant.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

namespace pomona {
namespace {

// [out, in, ...] -> [out, in]: whether any weight of the pair is not zero; on the CPU.
at::Tensor nonzero_pairs(const DeadLayer& layer) {
  const at::Tensor weight = layer.weight.detach();
  const at::Tensor nonzero = (layer.is_transposed ? weight.transpose(0, 1) : weight).ne(0);
  return (nonzero.dim() > 2 ? nonzero.flatten(2).any(2) : nonzero).cpu();
}

at::Tensor indices(const at::Tensor& which) {
  return which.nonzero().flatten();
}

bool has_any(const at::Tensor& which) {
  return which.any().item<bool>();
}

}  // namespace

DeadPlan::DeadPlan(std::vector<DeadLayer> layers, std::map<std::string, at::Tensor> held)
    : layers_(std::move(layers)), held_(std::move(held)) {
  consumers_.resize(layers_.size());
  producers_.resize(layers_.size());
  stayed_.resize(layers_.size());
  for (size_t i = 0; i < layers_.size(); ++i) {
    const auto& layer = layers_[i];
    nonzero_.push_back(nonzero_pairs(layer));
    alive_.push_back(at::ones({nonzero_.back().size(0)}, at::kBool));
    biases_.push_back(layer.bias.defined() ? layer.bias.detach().clone() : at::Tensor());
    if (!layer.why.empty()) continue;
    consumers_[i] = index_of(layer.consumer);
    producers_[*consumers_[i]] = i;
  }
  for (bool has_changed = true; has_changed;) {
    has_changed = false;
    for (size_t i = 0; i < layers_.size(); ++i) has_changed |= pass(i);
  }
}

size_t DeadPlan::index_of(const std::string& name) const {
  const auto found = std::ranges::find(layers_, name, &DeadLayer::name);
  if (found == layers_.end()) {
    throw InvalidArgument(
        text("DeadPlan: expected each consumer to be one of `layers`, got `", name, "`."));
  }
  return static_cast<size_t>(found - layers_.begin());
}

std::optional<at::Tensor> DeadPlan::inputs(size_t i) const {
  const auto producer = producers_.at(i);
  if (!producer) return std::nullopt;
  return alive_[*producer].repeat_interleave(layers_[*producer].spread);
}

std::vector<DeadRow> DeadPlan::rows() const {
  std::vector<DeadRow> rows;
  for (size_t i = 0; i < layers_.size(); ++i) {
    std::vector<std::pair<std::string, int64_t>> counts;  // by first mention
    for (const auto& [_, why] : stayed_[i]) {
      const auto found = std::ranges::find(counts, why, &std::pair<std::string, int64_t>::first);
      if (found == counts.end()) {
        counts.emplace_back(why, 1);
      } else {
        ++found->second;
      }
    }
    std::string whys;
    for (const auto& [why, count] : counts) {
      whys += whys.empty() ? "" : "; ";
      whys += counts.size() > 1 ? text(count, ": ", why) : why;
    }
    const int64_t neurons = alive_[i].numel();
    rows.push_back({layers_[i].name, neurons, neurons - alive_[i].sum().item<int64_t>(),
                    static_cast<int64_t>(stayed_[i].size()), whys.empty() ? layers_[i].why : whys});
  }
  return rows;
}

// Removes what is dead now; whether something was.
bool DeadPlan::pass(size_t i) {
  const auto& layer = layers_[i];
  const at::Tensor alive = alive_[i];
  const auto fed_by = inputs(i);
  const at::Tensor is_fed =
      (fed_by ? nonzero_[i].index_select(1, indices(*fed_by)) : nonzero_[i]).any(1);
  stayed_[i].clear();
  if (!layer.why.empty()) {
    stay(i, alive & ~is_fed, layer.why);
    return false;
  }
  const size_t consumer = *consumers_[i];
  const at::Tensor is_read = nonzero_[consumer]
                                 .index_select(0, indices(alive_[consumer]))
                                 .any(0)
                                 .view({alive.numel(), layer.spread})
                                 .any(1);
  at::Tensor goes = alive & ~(is_read & is_fed);
  if (has_any(goes) && at::equal(goes, alive)) {
    at::Tensor last = at::zeros_like(goes);
    last[indices(goes)[0].item<int64_t>()] = true;
    stay(i, last, "a layer keeps at least one neuron");
    goes = goes & ~last;
  }
  const at::Tensor to_fold = goes & is_read;
  if (has_any(to_fold)) goes = goes & ~fold(i, to_fold);
  alive_[i] = alive & ~goes;
  return has_any(goes);
}

void DeadPlan::stay(size_t i, const at::Tensor& which, const std::string& why) {
  const at::Tensor neurons = indices(which);
  for (int64_t k = 0; k < neurons.numel(); ++k) {
    const int64_t neuron = neurons[k].item<int64_t>();
    const auto found = std::ranges::find(stayed_[i], neuron, &Stayed::value_type::first);
    if (found == stayed_[i].end()) stayed_[i].emplace_back(neuron, why);
  }
}

// Adds the constants of these neurons to the consumer's bias; which of them cannot leave.
at::Tensor DeadPlan::fold(size_t i, const at::Tensor& to_fold) {
  const auto& layer = layers_[i];
  const size_t c = *consumers_[i];
  const auto& consumer = layers_[c];
  auto [values, whys] = carry_constant(layer, biases_[i]);
  at::Tensor summed = consumer.weight.detach().to(at::kDouble);
  if (summed.dim() > 2) summed = summed.flatten(2).sum(2);
  values = values.to(summed.device());
  const at::Tensor added =
      (summed * values.to(at::kDouble)).view({summed.size(0), -1, layer.spread}).sum(2);
  values = values.view({-1, layer.spread});
  const at::Tensor is_not_zero = values.ne(0).any(1);
  if (!biases_[c].defined()) {
    whys.push_back({is_not_zero, text("`", consumer.name, "` has no bias to fold it into")});
  }
  if (consumer.pads_with_zeros) {
    whys.push_back(
        {is_not_zero, text("`", consumer.name, "` pads with zeros, folding would be inexact")});
  }
  whys.push_back({~values.isfinite().all(1), "its constant is not finite"});
  if (const auto held = held_.find(consumer.name + ".bias"); held != held_.end()) {
    const at::Tensor rows = indices(~held->second).to(added.device());
    whys.push_back({added.index_select(0, rows).ne(0).any(0),
                    text("a mask holds the bias of `", consumer.name, "` at zero")});
  }
  at::Tensor stays = at::zeros_like(to_fold);
  for (const auto& [where, why] : whys) {
    const at::Tensor which = to_fold & where.cpu();
    stay(i, which, why);
    stays = stays | which;
  }
  if (biases_[c].defined()) {
    const at::Tensor folded = indices(to_fold & ~stays).to(added.device());
    biases_[c] = (biases_[c].to(at::kDouble) + added.index_select(1, folded).sum(1))
                     .to(biases_[c].scalar_type());
  }
  return stays;
}

}  // namespace pomona
