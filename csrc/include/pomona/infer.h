#pragma once
// Inference on the compressed weights (what thesis §4.8 says cuSPARSE and MKL lack).

#include "pomona/export.h"
#include "pomona/packed.h"

#include <ATen/core/Tensor.h>

#include <optional>

namespace pomona {

// The bytes of Packed as a uint8 tensor [size], CPU; and back, checked.
POMONA_API at::Tensor to_tensor(const Packed& packed);
POMONA_API Packed from_tensor(const at::Tensor& packed);
// What they hold, checked; `bytes` stays empty. Throws as from_tensor().
POMONA_API Packed facts_of(const at::Tensor& packed);

// input [..., cols] float32, packed uint8 (REQUIRES: made by pack and checked), bias [rows] float32
// or none -> [..., rows], and max(0, that) if has_relu. Differentiable in input and bias (through
// the dense weight: packed layers are made for inference); the packed weights get no gradient.
// torch.ops.pomona.packed_linear. Throws c10::ValueError or c10::TypeError for shapes, dtypes or
// devices that do not fit.
POMONA_API at::Tensor packed_linear(const at::Tensor& input, const at::Tensor& packed,
                                    const std::optional<at::Tensor>& bias, int64_t out_features,
                                    bool has_relu = false);

// The dense matrix, float32 [out_features, in_features], on the device of `packed` (REQUIRES as
// above). torch.ops.pomona.packed_weight. Errors as packed_linear.
POMONA_API at::Tensor packed_weight(const at::Tensor& packed, int64_t out_features,
                                    int64_t in_features);

// Rows of the matrix: indices [...], int64 or int32, in 0..num_embeddings - 1; packed as above, of
// csr16 or (on the CPU) lut -> float32 [..., embedding_dim]. torch.ops.pomona.packed_embedding.
// Errors as packed_linear, and for an index that is no row c10::IndexError; on CUDA a row of NaN.
POMONA_API at::Tensor packed_embedding(const at::Tensor& indices, const at::Tensor& packed,
                                       int64_t num_embeddings, int64_t embedding_dim);

}  // namespace pomona
