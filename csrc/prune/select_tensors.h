#pragma once
// Selection over tensors on any devices, through the dispatcher.

#include "pomona/export.h"
#include "pomona/mask.h"
#include "pomona/selection.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace pomona {

// As Scores.
struct TensorScores {
  at::Tensor scores;
  bool is_replicated = false;
};

// What select_pool makes of the same scores, bit for bit, where they lie: only counters, and masks
// of one bit a score, cross to the CPU. On the ranks of a job it may meet select_pool. REQUIRES:
// selectable and finite scores, all of one dtype; previous masks of their sizes.
POMONA_API Selection select_tensors(std::span<const TensorScores> pool, double sparsity,
                                    const std::vector<Mask>& previous,
                                    const SelectOptions& options = {});

// Scores as the functions here take them: row-major, of a dtype that select_pool knows (float32 in
// place of others), on a GPU where they lie on one, else on the CPU.
at::Tensor selectable(const at::Tensor& scores);

// The index of the first NaN or Inf. REQUIRES: selectable.
std::optional<int64_t> first_not_finite(const at::Tensor& scores);

}  // namespace pomona
