#pragma once
// Which packed layers a dense one may become.

#include "pomona/io.h"
#include "pomona/packed.h"

#include <torch/nn/module.h>
#include <torch/nn/modules/container/any.h>

#include <string>
#include <vector>

namespace pomona::nn {

// A Linear, LSTM, GRU or MultiheadAttention (without bias_kv and zero_attn) in a dtype that pack()
// takes; not a subclass, which computes something else.
bool can_be_packed(torch::nn::Module& module);

// Its matrices by name. REQUIRES: can_be_packed().
NamedTensors matrices_of(const torch::nn::Module& module);

// Everything that pack_ tries in its place, the likely fastest first: a Linear in each layout that
// can hold it; of the others, whose matrices may differ, each in its likely fastest, and all in
// csr16. None where no layout holds a matrix in this precision. REQUIRES: can_be_packed().
std::vector<torch::nn::AnyModule> packed_twins(const torch::nn::AnyModule& layer,
                                               Precision precision);

}  // namespace pomona::nn
