#pragma once
// Where a packed layer of several matrices has them from: a dense layer, or a file.

#include "pomona/export.h"
#include "pomona/packing.h"

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace pomona::nn {

// By the names that the dense layer has for its parameters.
struct Projections {
  // The packed bytes (uint8) of a matrix that is cut into so many parts of as many rows each.
  std::function<std::vector<at::Tensor>(const std::string& name, int64_t parts)> packed;
  // A vector; undefined where there is none.
  std::function<at::Tensor(const std::string& name)> bias;
};

// The parameters of a dense layer, which it must outlive; packed when they are asked for, as
// pack_fastest() and with its errors. Of a layer on another device than the CPU in csr16, which
// alone runs there.
POMONA_API Projections projections_of(const torch::nn::Module& dense, Packing packing);

}  // namespace pomona::nn
