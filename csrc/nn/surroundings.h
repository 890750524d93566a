#pragma once
// What an evaluation may disturb in a model, kept and put back bit for bit.

#include <ATen/core/Generator.h>
#include <torch/nn/module.h>

#include <memory>
#include <vector>

namespace pomona {

// Everything beside the weights: buffers, training flags, gradients, random numbers (of the CPU and
// of the devices of the parameters). restore() may be called often, so that every evaluation begins
// in the same state. Copies buffers and gradients; never the weights.
class Surroundings {
 public:
  // Holds on to `model`, which must live longer.
  explicit Surroundings(torch::nn::Module& model);
  void restore();

 private:
  struct Copy {
    at::Tensor tensor, values;
  };
  struct Gradient {
    at::Tensor parameter;
    bool requires_grad;
    at::Tensor grad, values;  // undefined: there was none
  };
  struct Random {
    at::Generator generator;
    at::Tensor state;
  };

  torch::nn::Module& model_;
  bool model_was_training_;
  std::vector<std::shared_ptr<torch::nn::Module>> modules_;  // below it
  std::vector<bool> was_training_;
  std::vector<Copy> buffers_;
  std::vector<Gradient> gradients_;
  std::vector<Random> random_;
};

// The values of a tensor, put back into it when this object dies.
class Restored {
 public:
  explicit Restored(const at::Tensor& tensor);
  ~Restored();
  Restored(const Restored&) = delete;
  Restored& operator=(const Restored&) = delete;

  // Whether the tensor holds the same bits as then; -0.0 is not 0.0 here.
  bool is_unchanged() const;

 private:
  at::Tensor tensor_, values_;
};

}  // namespace pomona
