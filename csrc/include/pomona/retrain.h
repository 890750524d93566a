#pragma once
// Retraining after pruning (thesis ch. 3) with LibTorch: dropout that fits what is left, and layers
// that stay fixed while others adapt.
//
//   auto rates = pomona::adjust_dropout_(model, pruner);
//   {
//     const auto frozen = pomona::freeze(*model, {"conv*"});
//     train(...);  // the other layers
//   }

#include "pomona/dropout.h"
#include "pomona/export.h"
#include "pomona/prune.h"

#include <torch/nn/modules/container/sequential.h>

#include <span>
#include <string>
#include <utility>
#include <vector>

namespace pomona {

// Lowers each dropout rate to what the pruned layer before it needs: D_r = D_o sqrt(C_r / C_o),
// with C_o the weights that the layer has and C_r those that it has under the mask. What comes
// before what is told by the order in which modules stand, those inside of others included:
// LibTorch cannot be traced, and a Sequential runs in that order. A layer is a module that itself
// holds a parameter of two or more dimensions.
//
// Returns a row for each dropout (also Dropout2d, AlphaDropout, ...) that comes after a layer.
// Modules of LibTorch remember nothing, so hand the rows to the next call as `earlier`: it then
// starts from the same D_o again, and takes a rate that somebody has set since for the new D_o.
// Throws InvalidArgument: no such dropout; one that stands after layers of different sparsity; a
// pruner with names or sizes that the model does not have. Then nothing has changed. Source: thesis
// ch. 3; Han et al., Learning both Weights and Connections, NIPS 2015, §3.2.
POMONA_API std::vector<AdjustedDropout> adjust_dropout_(
    torch::nn::Sequential& model, const Pruner& pruner,
    std::span<const AdjustedDropout> earlier = {});

// Parameters without gradients for as long as this object lives, or until undo().
class POMONA_API Frozen {
 public:
  // A parameter and its name.
  using Parameters = std::vector<std::pair<std::string, at::Tensor>>;
  explicit Frozen(Parameters parameters);
  ~Frozen();
  Frozen(Frozen&& other) noexcept;
  Frozen(const Frozen&) = delete;
  Frozen& operator=(const Frozen&) = delete;

  const std::vector<std::string>& names() const { return names_; }
  // Each parameter as it was: one that was frozen before stays frozen. Does nothing twice.
  void undo();

 private:
  std::vector<std::string> names_;
  std::vector<std::pair<at::Tensor, bool>> flags_;  // a parameter, and whether it required grad
};

// Holds some layers fixed while the others are retrained: optimizers pass over what has no
// gradient, so neither weight decay nor momentum moves a frozen parameter. Patterns are those of
// `patterns.h`, and those of modules take biases and other vectors along. A gradient that was
// there is dropped. Throws InvalidArgument, and nothing has changed: no pattern, or one that
// matches no parameter. Source: thesis ch. 3; Han et al., Learning both Weights and Connections,
// NIPS 2015, §3.3.
[[nodiscard]] POMONA_API Frozen freeze(const torch::nn::Module& model,
                                       const std::vector<std::string>& patterns);

}  // namespace pomona
