#pragma once
// Tensors <-> Weight, and whole models <-> file.

#include "pomona/export.h"
#include "pomona/file.h"
#include "pomona/weight.h"

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <filesystem>
#include <functional>
#include <set>
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

// Torch's threads, for what the torch-free half does on many: FileReader::read and others.
POMONA_API ParallelFor torch_threads();

// Throws InvalidArgument that names every floating-point tensor that holds NaN or Inf.
POMONA_API void check_finite(const NamedTensors& parameters);

struct SaveReport {
  std::vector<FileEntry> entries;
  uint64_t file_bytes = 0;   // the whole file, everything counted
  uint64_t dense_bytes = 0;  // the tensors as they are in memory
};

// Of what stands beside the tensors, and who is told.
struct SaveOptions {
  Coding coding{};         // on torch's threads unless `parallel` is set
  std::string metadata{};  // free text, JSON by convention
  // Told after each tensor: its name. Nothing is written when it throws.
  std::function<void(const std::string&)> progress{};
};

// What save() writes of a module: parameters and buffers under their qualified names, of packed
// layers the dense weights.
POMONA_API NamedTensors tensors_of(const torch::nn::Module& module);

// Writes tensors in their order, bit for bit, NaN and -0.0 included. Nothing is left behind, and an
// existing file stays whole, when it throws. Throws InvalidArgument (a name that stands twice, what
// to_weight refuses), FileError.
POMONA_API SaveReport save(const NamedTensors& tensors, const std::filesystem::path& path,
                           const SaveOptions& options = {});
// tensors_of(module): a file of packed layers fits the dense model as well. NaN or Inf in a
// parameter is an error that names it.
POMONA_API SaveReport save(const torch::nn::Module& module, const std::filesystem::path& path,
                           const SaveOptions& options = {});
// What a file would hold, without writing one.
POMONA_API std::vector<FileEntry> coded_entries(const NamedTensors& tensors,
                                                const Coding& coding = {});

// Told how many bytes of tensors are there, one call at a time.
using LoadProgress = std::function<void(uint64_t)>;

// All tensors of a file, in the order written, decoded on torch's threads straight into their
// memory.
POMONA_API NamedTensors load(const std::filesystem::path& path, const LoadProgress& progress = {});
// Copies a file into a model, in place: parameters stay the objects that optimizers hold. The whole
// file is decoded and compared first; throws InvalidArgument that lists every name, shape and dtype
// that does not fit, CorruptFile or FileError, and then the model is as it was. Beside the model it
// takes at most 64 MB: tensors that are larger when decoded are decoded twice.
POMONA_API void load_(torch::nn::Module& module, const std::filesystem::path& path);
// The same for tensors by name, on any device. Those in `must_be_finite` are refused with NaN or
// Inf.
POMONA_API void load_(const NamedTensors& targets, const std::filesystem::path& path,
                      const std::set<std::string>& must_be_finite = {});

}  // namespace pomona
