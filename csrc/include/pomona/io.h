#pragma once
// Tensors <-> Weight, and whole models <-> file.

#include "pomona/export.h"
#include "pomona/file.h"
#include "pomona/weight.h"

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace pomona {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

// Any device and strides; the bits of the tensor exactly. Throws InvalidArgument, naming it, for a
// dtype that DType lacks or a tensor without dense storage.
POMONA_API Weight to_weight(const std::string& name, const at::Tensor& tensor);
// A contiguous CPU tensor of the weight's shape and dtype.
POMONA_API at::Tensor to_tensor(const Weight& weight);

// Throws InvalidArgument that names every floating-point tensor that holds NaN or Inf.
POMONA_API void check_finite(const NamedTensors& parameters);

struct SaveReport {
  std::vector<FileEntry> entries;
  uint64_t file_bytes = 0;   // the whole file, everything counted
  uint64_t dense_bytes = 0;  // the tensors as they are in memory
};

// Writes tensors in their order, bit for bit, NaN and -0.0 included. Nothing is left behind, and an
// existing file stays whole, when it throws. Throws InvalidArgument (a name that stands twice, what
// to_weight refuses), FileError.
POMONA_API SaveReport save(const NamedTensors& tensors, const std::filesystem::path& path,
                           Coding coding = {});
// Parameters and buffers under their qualified names; of a PackedLinear its dense weight, so that a
// file fits the dense model as well. NaN or Inf in a parameter is an error that names it.
POMONA_API SaveReport save(const torch::nn::Module& module, const std::filesystem::path& path,
                           Coding coding = {});

// All tensors of a file, in the order written.
POMONA_API NamedTensors load(const std::filesystem::path& path);
// Copies a file into a model, in place: parameters stay the objects that optimizers hold. The whole
// file is read and compared first; throws InvalidArgument that lists every name, shape and dtype
// that does not fit, CorruptFile or FileError, and then the model is as it was.
POMONA_API void load_(torch::nn::Module& module, const std::filesystem::path& path);
// The same for tensors: each target gets the source of its name.
POMONA_API void copy_(const NamedTensors& targets, const NamedTensors& sources);

}  // namespace pomona
