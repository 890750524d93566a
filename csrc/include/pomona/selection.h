#pragma once
// Which weights go: exact, deterministic selection of the smallest scores, without a sort, over one
// tensor or many, on one process or on the ranks of a job.

#include "pomona/export.h"
#include "pomona/mask.h"
#include "pomona/weight.h"

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

namespace pomona {

// How many of n weights a sparsity prunes: floor(n * sparsity + 0.5). Throws InvalidArgument unless
// 0 <= sparsity < 1.
POMONA_API int64_t pruned_count(int64_t n, double sparsity);

// Prunes exactly pruned_count(n, sparsity) weights: those already masked in `previous` first, then
// the smallest |score|; of equal ones the lower index goes first. When `previous` already prunes as
// many or more, it is returned as it is. An empty `previous` (size 0) prunes nothing. Linear time:
// one pass over the scores with a bracket from a sample, then a radix select of what lies inside.
// Source: thesis §3.2 (magnitude threshold); the exact count replaces the threshold. Throws
// InvalidArgument when sparsity is outside [0, 1), a score is NaN or infinite, or sizes differ.
POMONA_API Mask select_smallest(std::span<const float> scores, double sparsity,
                                const Mask& previous = {});
POMONA_API Mask select_smallest(std::span<const double> scores, double sparsity,
                                const Mask& previous = {});

// The scores of one tensor in logical row-major order, or of this rank's rows of it.
struct Scores {
  const void* data = nullptr;  // [size], not owned
  int64_t size = 0;
  DType dtype = DType::kFloat32;  // float32, float16, bfloat16 or float64
  bool is_replicated = false;     // every rank holds the same whole tensor: it counts once
};

// Which ranks select together. `sum` adds an array up over all ranks, in place; every rank calls it
// as often, with as many counters.
struct SelectionRanks {
  int64_t rank = 0;
  int64_t size = 1;
  std::function<void(std::span<int64_t>)> sum{};
};

struct SelectOptions {
  bool by_value = false;  // order by the score itself; default: by |score|
  bool zeros_go = false;  // scores of 0 go as well, however few are asked for
  SelectionRanks ranks{};
};

struct Selection {
  std::vector<Mask> masks;
  // The largest score that this call pruned (|score| unless by_value); 0 when it pruned none.
  double threshold = 0.0;
};

// The same for a pool of tensors whose scores are compared with one another: of their n weights
// pruned_count(n, sparsity) are masked in the end. Ties: the earlier tensor, then the lower index
// of the whole tensor. Every rank gets the masks of its own parts, and together they are the masks
// that one process would make: counters are summed, scores never gathered. REQUIRES: every
// `previous` is of its tensor's size; all of one dtype; on more than one rank finite scores. Throws
// InvalidArgument otherwise.
POMONA_API Selection select_pool(std::span<const Scores> pool, double sparsity,
                                 std::vector<Mask> previous, const SelectOptions& options = {});

}  // namespace pomona
