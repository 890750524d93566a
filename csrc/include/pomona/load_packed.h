#pragma once
// From a file straight into packed layers.

#include "pomona/export.h"
#include "pomona/packing.h"

#include <torch/nn/modules/container/sequential.h>

#include <filesystem>
#include <string>
#include <vector>

namespace pomona::nn {

// Loads a file of a Sequential; its pruned or shared Linear, LSTM, GRU, MultiheadAttention and
// Embedding layers become PackedLinear, PackedLSTM, PackedGRU, PackedMultiheadAttention and
// PackedEmbedding, and their names are returned. The dense weight that the file
// holds of a packed layer is never made, and the model's own is let go: beside the packed layers
// this takes the memory of one layer as the file holds it, and of what stays dense.
//
// Packed is a layer all of whose matrices the file holds shared or with at most half of their
// values (is_worth_packing()), of embeddings if that takes less memory (is_worth_packing_rows());
// not a weight that another module holds too, a subclass, attention with bias_kv or zero_attn, or
// an Embedding with max_norm. Nothing is timed: pack_ does that. `packing` is for all but
// embeddings; a matrix that has no layout in its precision is packed in kFloat32, and all are where
// this processor has no instructions for it.
//
// `cache` names a file, that of Python's load_packed_ too: what was packed is kept there, and
// mapped into memory the next time, in milliseconds. It is of this very file, version, processor
// and `packing`; one of others, or damaged, is made anew, and one that cannot be written is said
// (TORCH_WARN) and left. Empty: none.
//
// Throws InvalidArgument for names, shapes or dtypes that do not fit (all are listed), a tensor on
// another device than the CPU, a layout that cannot hold a layer, NaN or Inf in one;
// CorruptFile or FileError. Then the model is as it was.
POMONA_API std::vector<std::string> load_packed_(torch::nn::Sequential& model,
                                                 const std::filesystem::path& path,
                                                 const Packing& packing = {},
                                                 const std::filesystem::path& cache = {});

}  // namespace pomona::nn
