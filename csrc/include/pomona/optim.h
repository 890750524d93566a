#pragma once
// The shell for torch::optim: what pomona's Python classes do with hooks, as functions to call in a
// training loop.
//
//   pomona::Pruner pruner(pomona::resolve<pomona::Prune>(pomona::parameters(*model), {{"*",
//   pomona::Prune{0.9}}})); pruner.step(pomona::live(*model, pruner.names(), &optimizer)); for
//   (...) {
//     optimizer.zero_grad();
//     loss(...).backward();
//     pomona::step(optimizer, pomona::live(*model, pruner.names(), &optimizer), pruner);
//   }

#include "pomona/export.h"
#include "pomona/live.h"
#include "pomona/prune.h"
#include "pomona/quantize.h"
#include "pomona/rules.h"

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

#include <span>
#include <string>
#include <vector>

namespace pomona {

// What rules may look at, in the order of named_parameters().
POMONA_API std::vector<Parameter> parameters(const torch::nn::Module& model);

// The parameters of those names with the optimizer's state for each (SGD, Adam, AdamW, RMSprop,
// Adagrad). Throws InvalidArgument for a name that the model lacks, or a parameter that the
// optimizer does not hold.
POMONA_API std::vector<Live> live(const torch::nn::Module& model,
                                  const std::vector<std::string>& names,
                                  torch::optim::Optimizer* optimizer = nullptr);

// The optimizer's learning rates times `factor` for as long as this object lives.
class POMONA_API ScaledLr {
 public:
  ScaledLr(torch::optim::Optimizer& optimizer, double factor);
  ~ScaledLr();
  ScaledLr(const ScaledLr&) = delete;
  ScaledLr& operator=(const ScaledLr&) = delete;

 private:
  torch::optim::Optimizer& optimizer_;
  std::vector<double> saved_;
};

// One optimizer step that keeps the masks: gradients masked, lr scaled for this step, weights
// zeroed again after it.
POMONA_API void step(torch::optim::Optimizer& optimizer, std::span<const Live> live, Pruner& pruner,
                     double lr_factor = 1.0);
// One optimizer step that moves the centroids: gradients pooled, clusters snapped; or, as the
// sharer's Alternate says, one that moves the weights one by one, with new codes where it is due.
POMONA_API void step(torch::optim::Optimizer& optimizer, std::span<const Live> live,
                     Sharer& sharer);

}  // namespace pomona
