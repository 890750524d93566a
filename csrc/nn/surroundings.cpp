#include "nn/surroundings.h"

#include <ATen/Context.h>
#include <ATen/ops/equal.h>
#include <torch/utils.h>

#include <algorithm>

namespace pomona {
namespace {

at::Tensor bits_of(const at::Tensor& tensor) {
  return tensor.detach().contiguous().flatten().view(at::kByte);
}

std::vector<at::Device> devices_of(const torch::nn::Module& model) {
  std::vector<at::Device> devices{at::Device(at::kCPU)};
  for (const auto& parameter : model.parameters()) {
    const at::Device device = parameter.device();
    const bool has_generator = device.is_cpu() || device.is_cuda();
    if (has_generator && std::ranges::find(devices, device) == devices.end()) {
      devices.push_back(device);
    }
  }
  return devices;
}

}  // namespace

Surroundings::Surroundings(torch::nn::Module& model)
    : model_(model),
      model_was_training_(model.is_training()),
      // Not the model itself: for that it would have to live in a shared_ptr.
      modules_(model.modules(/*include_self=*/false)) {
  for (const auto& module : modules_) was_training_.push_back(module->is_training());
  for (const auto& buffer : model.buffers()) buffers_.push_back({buffer, buffer.detach().clone()});
  for (const auto& parameter : model.parameters()) {
    const at::Tensor& grad = parameter.grad();
    gradients_.push_back({parameter, parameter.requires_grad(), grad,
                          grad.defined() ? grad.detach().clone() : at::Tensor()});
  }
  for (const auto& device : devices_of(model)) {
    const at::Generator& generator = at::globalContext().defaultGenerator(device);
    random_.push_back({generator, generator.get_state()});
  }
}

void Surroundings::restore() {
  const torch::NoGradGuard no_grad;
  // Parents come before their children, whom train() changes as well.
  model_.train(model_was_training_);
  for (size_t i = 0; i < modules_.size(); ++i) modules_[i]->train(was_training_[i]);
  for (const auto& [buffer, values] : buffers_) buffer.copy_(values);
  for (auto& [parameter, requires_grad, grad, values] : gradients_) {
    parameter.requires_grad_(requires_grad);
    parameter.mutable_grad() = grad;
    if (grad.defined()) grad.copy_(values);
  }
  for (auto& [generator, state] : random_) generator.set_state(state);
}

Restored::Restored(const at::Tensor& tensor) : tensor_(tensor), values_(tensor.detach().clone()) {}

Restored::~Restored() {
  const torch::NoGradGuard no_grad;
  tensor_.copy_(values_);
}

bool Restored::is_unchanged() const {
  return at::equal(bits_of(tensor_), bits_of(values_));
}

}  // namespace pomona
