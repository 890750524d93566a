#pragma once
// A model in eval mode for as long as an object lives.

#include <torch/nn/module.h>

#include <memory>
#include <vector>

namespace pomona::nn {

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

}  // namespace pomona::nn
