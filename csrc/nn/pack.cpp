#include "pomona/error.h"
#include "pomona/io.h"
#include "pomona/nn.h"

#include "base/text.h"
#include "nn/eval_mode.h"

#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/isfinite.h>
#include <torch/utils.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <typeinfo>

namespace pomona::nn {
namespace {

constexpr int kWarmUps = 3;
constexpr int kRuns = 21;

// A Linear of the model, and what it was given when the example ran through.
struct Candidate {
  std::string name;
  torch::nn::Linear linear;
  at::Tensor input;
};

bool can_be_packed(const torch::nn::Module& module) {
  if (typeid(module) != typeid(torch::nn::LinearImpl)) return false;
  const auto dtype = static_cast<const torch::nn::LinearImpl&>(module).weight.scalar_type();
  return dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16;
}

std::vector<Candidate> run_example(torch::nn::SequentialImpl& model, at::Tensor input) {
  const auto names = model.named_children().keys();
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < model.size(); ++i) {
    auto& layer = *(model.begin() + static_cast<std::ptrdiff_t>(i));
    if (can_be_packed(*layer.ptr())) {
      candidates.push_back(
          {names[i], torch::nn::Linear(layer.ptr<torch::nn::LinearImpl>()), input});
    }
    input = layer.forward(input);
  }
  return candidates;
}

template <class Call>
double microseconds(const Call& call) {
  const auto start = std::chrono::steady_clock::now();
  const at::Tensor output = call();
  if (!output.is_cpu()) at::accelerator::synchronizeDevice(output.get_device());
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
      .count();
}

double median(std::vector<double> times) {
  std::ranges::nth_element(times, times.begin() + kRuns / 2);
  return times[kRuns / 2];
}

// Median microseconds of each call, by turns.
std::vector<double> measure(const std::vector<std::function<at::Tensor()>>& calls) {
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
  const auto fast = fast_precisions();
  if (std::ranges::find(fast, settings.precision) == fast.end()) {
    settings.precision = Precision::kFloat32;
  }
  if (settings.verify == 0) settings.verify = default_tolerance(settings.precision);
  return settings;
}

// The largest change of an output beside the largest output.
double relative_error(const at::Tensor& output, const at::Tensor& expected) {
  if (expected.numel() == 0) return 0;
  const auto largest = expected.abs().max().item<double>();
  const auto error = (output - expected).abs().max().item<double>();
  return largest > 0 ? error / largest : error;
}

// The fastest layout that keeps the outputs; the fastest of all if none does, which stays dense.
std::pair<PackChoice, PackedLinear> decide(Candidate& candidate, const PackSettings& settings) {
  const auto weight = to_weight(candidate.name + ".weight", candidate.linear->weight);
  const auto layouts = candidate.linear->weight.is_cpu() ? layouts_for(weight, settings.precision)
                                                         : std::vector<PackOptions>{PackOptions{}};
  if (layouts.empty()) return {PackChoice{.name = candidate.name}, PackedLinear(nullptr)};
  const auto& input = candidate.input;
  std::vector<PackedLinear> packed;
  std::vector<std::function<at::Tensor()>> calls{[&] { return candidate.linear->forward(input); }};
  for (const auto& options : layouts) {
    packed.emplace_back(candidate.linear, options);
    calls.emplace_back([layer = packed.back(), &input]() mutable { return layer->forward(input); });
  }
  const auto times = measure(calls);
  const at::Tensor expected = calls[0]();
  std::vector<PackChoice> choices;
  for (size_t i = 0; i < layouts.size(); ++i) {
    const double error = relative_error(calls[i + 1](), expected);
    choices.push_back({.name = candidate.name,
                       .dense_us = times[0],
                       .packed_us = times[i + 1],
                       .is_packed = error <= settings.verify && times[i + 1] < times[0],
                       .options = layouts[i],
                       .bytes = packed[i]->packed.numel(),
                       .error = error});
  }
  const auto rank = [&](const PackChoice& choice) {
    return std::pair(choice.error > settings.verify, choice.packed_us);
  };
  const auto best = std::ranges::min_element(choices, {}, rank);
  return {*best, packed[static_cast<size_t>(best - choices.begin())]};
}

void check_finite(const Candidate& candidate) {
  if (at::isfinite(candidate.linear->weight).all().item<bool>()) return;
  throw InvalidArgument(
      text("pack_: expected `", candidate.name, ".weight` to be finite, got NaN or Inf."));
}

}  // namespace

std::vector<PackChoice> pack_(torch::nn::Sequential& model, const at::Tensor& example,
                              const PackSettings& wanted) {
  const torch::NoGradGuard no_grad;
  const PackSettings settings = checked(wanted);
  std::vector<PackChoice> choices;
  std::map<const torch::nn::Module*, PackedLinear> replacements;
  {
    const EvalMode eval(*model);
    auto candidates = run_example(*model, example);
    for (const auto& candidate : candidates) check_finite(candidate);
    for (auto& candidate : candidates) {
      auto [choice, packed] = decide(candidate, settings);
      if (choice.is_packed) replacements.emplace(candidate.linear.get(), packed);
      choices.push_back(std::move(choice));
    }
  }
  const auto names = model->named_children().keys();
  for (size_t i = 0; i < model->size(); ++i) {
    auto& layer = *(model->begin() + static_cast<std::ptrdiff_t>(i));
    const auto found = replacements.find(layer.ptr().get());
    if (found == replacements.end()) continue;
    found->second->train(layer.ptr()->is_training());
    layer = torch::nn::AnyModule(found->second);
    model->replace_module(names[i], found->second.ptr());
  }
  return choices;
}

}  // namespace pomona::nn
