#include "pomona/error.h"
#include "pomona/nn.h"

#include "base/text.h"

#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/isfinite.h>
#include <torch/utils.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <typeinfo>

namespace pomona::nn {
namespace {

constexpr int kWarmUps = 3;
constexpr int kRuns = 21;

// Puts the model into eval mode and every module back into its own mode in the end.
class EvalMode {
 public:
  explicit EvalMode(torch::nn::Module& model) : modules_(model.modules()) {
    for (const auto& module : modules_) was_training_.push_back(module->is_training());
    model.eval();
  }
  ~EvalMode() {
    // Parents come before their children, whom train() changes as well.
    for (size_t i = 0; i < modules_.size(); ++i) modules_[i]->train(was_training_[i]);
  }
  EvalMode(const EvalMode&) = delete;
  EvalMode& operator=(const EvalMode&) = delete;

 private:
  std::vector<std::shared_ptr<torch::nn::Module>> modules_;
  std::vector<bool> was_training_;
};

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

PackChoice measure(Candidate& candidate, PackedLinear& packed) {
  const auto dense_time = [&] {
    return microseconds([&] { return candidate.linear->forward(candidate.input); });
  };
  const auto packed_time = [&] {
    return microseconds([&] { return packed->forward(candidate.input); });
  };
  std::vector<double> dense_times, packed_times;
  for (int run = -kWarmUps; run < kRuns; ++run) {
    const double dense = dense_time(), sparse = packed_time();
    if (run < 0) continue;
    dense_times.push_back(dense);
    packed_times.push_back(sparse);
  }
  PackChoice choice{
      .name = candidate.name, .dense_us = median(dense_times), .packed_us = median(packed_times)};
  choice.is_packed = choice.packed_us < choice.dense_us;
  return choice;
}

void check_finite(const Candidate& candidate) {
  if (at::isfinite(candidate.linear->weight).all().item<bool>()) return;
  throw InvalidArgument(
      text("pack_: expected `", candidate.name, ".weight` to be finite, got NaN or Inf."));
}

}  // namespace

std::vector<PackChoice> pack_(torch::nn::Sequential& model, const at::Tensor& example) {
  const torch::NoGradGuard no_grad;
  std::vector<PackChoice> choices;
  std::map<const torch::nn::Module*, PackedLinear> replacements;
  {
    const EvalMode eval(*model);
    auto candidates = run_example(*model, example);
    for (const auto& candidate : candidates) check_finite(candidate);
    for (auto& candidate : candidates) {
      PackedLinear packed(candidate.linear);
      choices.push_back(measure(candidate, packed));
      if (choices.back().is_packed) replacements.emplace(candidate.linear.get(), packed);
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
