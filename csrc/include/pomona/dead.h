#pragma once
// Dead neurons leave a Sequential of LibTorch (thesis ch. 3): what pruning has left without inputs
// or outputs. The same plan as pomona.remove_dead_ in Python (`dead_plan.h`).
//
//   auto removal = pomona::remove_dead_(model, images, {.pruners = {&pruner},
//                                                       .optimizer = &optimizer});

#include "pomona/dead_plan.h"
#include "pomona/export.h"
#include "pomona/prune.h"

#include <torch/nn/modules/container/sequential.h>
#include <torch/optim/optimizer.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace pomona {

// What is left of a parameter or buffer.
struct Kept {
  std::string name;
  std::vector<int64_t> shape;                       // as it was
  std::map<int64_t, std::vector<int64_t>> indices;  // by dimension, those kept, ascending
  double fill = 0;  // what stands where something left: 1 for scale and variance of a norm
};

// What remove_dead_ has cut: enough to write the original network again.
struct POMONA_API Removal {
  std::vector<DeadRow> report;
  std::vector<Kept> tensors;  // those that are smaller now
  int64_t removed() const {
    int64_t sum = 0;
    for (const auto& row : report) sum += row.removed;
    return sum;
  }
  // The tensors of the original network from those of the small one (`tensors_of`), names and order
  // as they are: zeros where something left, and of a batch norm scale 1, bias 0, mean 0,
  // variance 1. The original network with them computes what the small one does; `save` takes them.
  // Throws InvalidArgument when a tensor that was cut is missing or has another shape.
  std::vector<std::pair<std::string, at::Tensor>> expand(
      const std::vector<std::pair<std::string, at::Tensor>>& small) const;
  // This removal and a later one of the same network as one. Throws InvalidArgument when the later
  // one did not begin where this one ended.
  Removal then(const Removal& later) const;
};

// Whom a removal concerns besides the model.
struct Removing {
  std::vector<Pruner*> pruners{};  // that of a DSD is dsd.pruner()
  torch::optim::Optimizer* optimizer = nullptr;
};

// What remove_dead_ would remove, layer by layer; the model stays as it is. `example` is an input
// of the model, of which only the shape matters. Throws InvalidArgument when a module does not take
// what comes.
POMONA_API std::vector<DeadRow> dead_neurons(torch::nn::Sequential& model,
                                             const at::Tensor& example);

// Removes the neurons without inputs or without outputs; what the model computes stays. A neuron is
// a row of a Linear or an output channel of a Conv1d, Conv2d or Conv3d, and leaves when what is
// between it and the next layer treats each neuron by itself: element-wise activations, pooling,
// dropout, BatchNorm, Flatten. When only its inputs are gone its output is a constant, which goes
// into the bias of the next layer. It stays where that would not be exact (zero padding, a batch
// norm in training) or not possible (no bias), and the report says so. Inputs and outputs of the
// model stay, and each layer keeps a neuron. Other modules are not looked into: they end a chain.
//
// It may be called in the middle of training: parameters stay the same tensors, with gradients and
// optimizer state (as `live` sees it) cut to what is left, and masks follow. Source: thesis ch. 3;
// Han et al., Learning both Weights and Connections, NIPS 2015, §3.5. Throws InvalidArgument, and
// everything is as it was: as dead_neurons(); a pruner with names or sizes that the model does not
// have; LBFGS in the middle of its work, which holds one long vector.
POMONA_API Removal remove_dead_(torch::nn::Sequential& model, const at::Tensor& example,
                                const Removing& removing = {});

}  // namespace pomona
