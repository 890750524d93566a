#include "pomona/error.h"
#include "pomona/io.h"
#include "pomona/nn.h"

#include "base/text.h"
#include "nn/eval_mode.h"
#include "nn/packed_twins.h"
#include "nn/replace.h"

#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/isfinite.h>
#include <torch/utils.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <tuple>

namespace pomona::nn {
namespace {

constexpr int kWarmUps = 3;
constexpr int kRuns = 21;

using torch::nn::AnyModule;
using torch::nn::AnyValue;
using Tensors = std::vector<at::Tensor>;

// A layer of the model, and what it was given when the example ran through.
struct Candidate {
  std::string name;
  AnyModule layer;
  Tensors given;
};

AnyValue call(AnyModule& layer, const Tensors& given) {
  switch (given.size()) {
    case 1:
      return layer.any_forward(given[0]);
    case 2:
      return layer.any_forward(given[0], given[1]);
    default:
      return layer.any_forward(given[0], given[1], given[2]);
  }
}

void append(Tensors& tensors, const at::Tensor& tensor) {
  if (tensor.defined()) tensors.push_back(tensor);
}

template <class... Values>
void append(Tensors& tensors, const std::tuple<Values...>& values) {
  std::apply([&](const auto&... value) { (append(tensors, value), ...); }, values);
}

// What the kinds of layers that can be packed return.
Tensors run(AnyModule& layer, const Tensors& given) {
  using Pair = std::tuple<at::Tensor, at::Tensor>;
  AnyValue output = call(layer, given);
  Tensors tensors;
  if (const auto* one = output.try_get<at::Tensor>()) append(tensors, *one);
  if (const auto* pair = output.try_get<Pair>()) append(tensors, *pair);
  if (const auto* all = output.try_get<std::tuple<at::Tensor, Pair>>()) append(tensors, *all);
  return tensors;
}

std::vector<Candidate> run_example(torch::nn::Sequential& model, const Tensors& example) {
  const auto names = model->named_children().keys();
  std::vector<Candidate> candidates;
  std::set<const torch::nn::Module*> seen;
  std::optional<AnyValue> value;  // between two layers
  for (size_t i = 0; i < model->size(); ++i) {
    AnyModule& layer = layer_at(model, i);
    const auto* one = value ? value->try_get<at::Tensor>() : nullptr;
    // A layer that takes something else throws below.
    if (can_be_packed(*layer.ptr()) && (i == 0 || one != nullptr) &&
        seen.insert(layer.ptr().get()).second) {
      candidates.push_back({names[i], layer, i == 0 ? example : Tensors{*one}});
    }
    value = i == 0 ? call(layer, example) : layer.any_forward(std::move(*value));
  }
  return candidates;
}

template <class Call>
double microseconds(const Call& call) {
  const auto start = std::chrono::steady_clock::now();
  const Tensors outputs = call();
  for (const at::Tensor& output : outputs) {
    if (!output.is_cpu()) at::accelerator::synchronizeDevice(output.get_device());
  }
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
      .count();
}

double median(std::vector<double> times) {
  std::ranges::nth_element(times, times.begin() + kRuns / 2);
  return times[kRuns / 2];
}

// Median microseconds of each call, by turns.
std::vector<double> measure(const std::vector<std::function<Tensors()>>& calls) {
  std::vector<std::vector<double>> times(calls.size());
  for (int run = -kWarmUps; run < kRuns; ++run) {
    for (size_t c = 0; c < calls.size(); ++c) {
      const double time = microseconds(calls[c]);
      if (run >= 0) times[c].push_back(time);
    }
  }
  std::vector<double> medians(calls.size());
  std::ranges::transform(times, medians.begin(), median);
  return medians;
}

double default_tolerance(Precision precision) {
  switch (precision) {
    case Precision::kFloat32:
    case Precision::kFixed16:
      return 1e-4;
    case Precision::kBFloat16:
      return 2e-2;
    case Precision::kInt8:
      return 0.1;
  }
  return 0;
}

PackSettings checked(PackSettings settings) {
  if (!(settings.verify >= 0)) {
    throw InvalidArgument(
        text("pack_: expected `verify` of at least 0, got ", settings.verify, "."));
  }
  settings.precision = fast_or_float32(settings.precision);
  if (settings.verify == 0) settings.verify = default_tolerance(settings.precision);
  return settings;
}

// The largest change of an output beside the largest of it.
double relative_error(const Tensors& outputs, const Tensors& expected) {
  double worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i].numel() == 0 || std::isnan(worst)) continue;
    const auto largest = expected[i].abs().max().item<double>();
    const auto error = (outputs[i] - expected[i]).abs().max().item<double>();
    const double relative = largest > 0 ? error / largest : error;
    if (!(relative <= worst)) worst = relative;  // a NaN stays
  }
  return worst;
}

// What a packed layer says of itself.
PackChoice choice_of(const Candidate& candidate, const torch::nn::Module& packed) {
  PackChoice choice{.name = candidate.name};
  std::set<Layout> layouts;
  for (const auto& module : packed.modules()) {
    const auto* layer = module->as<PackedLinearImpl>();
    if (layer == nullptr) continue;
    if (layouts.empty()) choice.options = layer->options;
    layouts.insert(layer->options.layout);
    choice.bytes += layer->packed.numel();
  }
  choice.layouts.assign(layouts.begin(), layouts.end());
  return choice;
}

// The fastest that keeps the outputs; the fastest of all if none does, which stays dense.
std::pair<PackChoice, std::optional<AnyModule>> decide(Candidate& candidate,
                                                       const PackSettings& settings) {
  auto twins = packed_twins(candidate.layer, settings.precision);
  if (twins.empty()) return {PackChoice{.name = candidate.name}, std::nullopt};
  const Tensors& given = candidate.given;
  std::vector<std::function<Tensors()>> calls{[&] { return run(candidate.layer, given); }};
  for (AnyModule& twin : twins) calls.emplace_back([&] { return run(twin, given); });
  const auto times = measure(calls);
  const Tensors expected = calls[0]();
  std::vector<PackChoice> choices;
  for (size_t i = 0; i < twins.size(); ++i) {
    PackChoice choice = choice_of(candidate, *twins[i].ptr());
    choice.dense_us = times[0];
    choice.packed_us = times[i + 1];
    choice.error = relative_error(calls[i + 1](), expected);
    choice.is_packed = choice.error <= settings.verify && choice.packed_us < choice.dense_us;
    choices.push_back(std::move(choice));
  }
  const auto rank = [&](const PackChoice& choice) {
    return std::pair(choice.error > settings.verify, choice.packed_us);
  };
  const auto best = std::ranges::min_element(choices, {}, rank);
  return {*best, twins[static_cast<size_t>(best - choices.begin())]};
}

void check_finite(const Candidate& candidate) {
  for (const auto& [name, matrix] : matrices_of(*candidate.layer.ptr())) {
    if (at::isfinite(matrix).all().item<bool>()) continue;
    throw InvalidArgument(
        text("pack_: expected `", candidate.name, ".", name, "` to be finite, got NaN or Inf."));
  }
}

void check_example(const Tensors& example) {
  if (!example.empty() && example.size() <= 3) return;
  throw InvalidArgument(
      text("pack_: expected `example` of 1 to 3 tensors, got ", example.size(), "."));
}

}  // namespace

std::vector<PackChoice> pack_(torch::nn::Sequential& model, const at::Tensor& example,
                              const PackSettings& settings) {
  return pack_(model, std::vector<at::Tensor>{example}, settings);
}

std::vector<PackChoice> pack_(torch::nn::Sequential& model, const std::vector<at::Tensor>& example,
                              const PackSettings& wanted) {
  const torch::NoGradGuard no_grad;
  const PackSettings settings = checked(wanted);
  check_example(example);
  std::vector<PackChoice> choices;
  std::map<const torch::nn::Module*, AnyModule> replacements;
  {
    const EvalMode eval(*model);
    auto candidates = run_example(model, example);
    for (const auto& candidate : candidates) check_finite(candidate);
    for (auto& candidate : candidates) {
      auto [choice, packed] = decide(candidate, settings);
      if (choice.is_packed) replacements.emplace(candidate.layer.ptr().get(), *packed);
      choices.push_back(std::move(choice));
    }
  }
  replace_layers(model, [&](const std::string&, AnyModule& layer) -> std::optional<AnyModule> {
    const auto found = replacements.find(layer.ptr().get());
    if (found == replacements.end()) return std::nullopt;
    found->second.ptr()->train(layer.ptr()->is_training());
    return found->second;
  });
  return choices;
}

}  // namespace pomona::nn
