#pragma once
// The scores of weights by each criterion, as tensors.

#include "pomona/live.h"
#include "pomona/prune_rule.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace pomona {

// Whether gradients have to be accumulated for it.
bool needs_gradients(const Criterion& criterion);

// Adds the gradient of `weight` (nothing where it has none) to `accumulated`, made when undefined:
// float32 (float64 for double), of the weight's shape and device. Gradients that are not finite (a
// step that AMP will skip) count as 0. Returns whether there was a gradient.
bool accumulate_gradient(const Criterion& criterion, at::Tensor& accumulated,
                         const at::Tensor& weight, double grad_scale);

// One score a weight, of its shape: higher is more important; signs count for kScores only.
// `dense` is the weight, with what may return; `first` the index of its first entry in the whole
// parameter. Throws InvalidArgument, naming the parameter, when gradients or the optimizer's state
// are missing. REQUIRES: not kScores.
at::Tensor scores_of(const Criterion& criterion, const std::string& name, const at::Tensor& dense,
                     const Live& live, const at::Tensor& accumulated, int64_t first, int64_t round);

}  // namespace pomona
