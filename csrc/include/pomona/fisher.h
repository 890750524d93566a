#pragma once
// How much each weight matters, for codebooks that spend their centroids where it shows.

#include "pomona/export.h"

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/ordered_dict.h>

#include <functional>
#include <string>

namespace pomona {

// The mean of the squared gradients over batches: the diagonal of the empirical Fisher information
// (of batches), which stands for that of the Hessian: moving weight w by d costs about fisher * d^2
// / 2. Sharer::assign and fit_codebook take it. Source: Kim et al., SqueezeLLM, 2023, §4.1.
//
// model: whose parameters are measured, those that require gradients. It runs in eval mode; it, its
// gradients and its mode are as they were afterwards. next_loss: runs the model on the next batch
// and returns a number to differentiate, or an undefined tensor after the last batch; small batches
// measure better. Returns name -> float32 of the parameter's shape, on its device; by every name of
// a tied parameter; 0 for one that no loss depends on. Throws InvalidArgument for no batches, or no
// parameter that requires gradients; c10::Error (torch's) for a loss without gradients.
//
//   auto batch = loader->begin();
//   const auto importance = pomona::fisher(*model, [&] {
//     if (batch == loader->end()) return at::Tensor();
//     const at::Tensor loss = torch::nll_loss(model->forward(batch->data), batch->target);
//     ++batch;
//     return loss;
//   });
//   std::vector<at::Tensor> by_name;
//   for (const auto& name : sharer.names()) by_name.push_back(importance[name]);
//   sharer.assign(pomona::live(*model, sharer.names(), &optimizer), by_name);
POMONA_API torch::OrderedDict<std::string, at::Tensor> fisher(
    torch::nn::Module& model, const std::function<at::Tensor()>& next_loss);

}  // namespace pomona
