#pragma once
// Which layer of a Sequential feeds which: chains Linear/Conv -> [known operations] -> Linear/Conv.
//
// Note [What a chain promises]. Each operation between the two layers works on every neuron by
// itself (or lays its values side by side, flatten), so a neuron may leave without the others
// noticing. What is not known to do so ends the chain, and the layer's `why` says what it was.
// LibTorch cannot be traced, but a Sequential runs its modules in their order.

#include "pomona/dead_plan.h"

#include <torch/nn/modules/container/sequential.h>

#include <memory>
#include <string>
#include <vector>

namespace pomona::nn {

// A module of a Sequential, and the shapes of what goes in and comes out.
struct Link {
  std::string name;
  torch::nn::AnyModule* module;
  std::vector<int64_t> shape, shape_after;
};

// Runs the example through, in evaluation and without gradients; the mode is restored. Throws
// InvalidArgument, naming `what`, when a module does not take what comes.
std::vector<Link> run_links(torch::nn::SequentialImpl& model, const at::Tensor& example,
                            const char* what);

// Every Linear and convolution, in order; with what the DeadPlan asks for.
std::vector<DeadLayer> find_layers(const torch::nn::Module& model, const std::vector<Link>& links);

// Of a Linear or a plain convolution (as opposed to a transposed one) what the module says about
// its size becomes that of its weight; of a batch norm too.
void resize(torch::nn::Module& module);

}  // namespace pomona::nn
