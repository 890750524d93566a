#pragma once
// From scores to masks: pools, pieces, thresholds, on one process or on ranks.

#include "pomona/mask.h"
#include "pomona/prune.h"
#include "pomona/prune_rule.h"

#include <ATen/core/Tensor.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace pomona {

// One parameter on which a round falls.
struct MaskRequest {
  std::string name;
  Prune rule;
  Round round;
  std::vector<int64_t> shape;  // of this rank's rows
  at::Tensor scores;           // one a weight, finite
  bool by_value = false;       // the caller's scores: signs count
  Mask previous;
  std::optional<Shard> shard{};
};

struct MadeMask {
  Mask mask;
  double threshold = 0.0;
};

// The masks of all requests, in their order. Equal rules of global scope are one pool. On more than
// one rank every rank makes the same requests, of its own rows. REQUIRES: finite
// scores, rules that fit their shapes.
std::vector<MadeMask> make_masks(std::span<const MaskRequest> requests, const Ranks& ranks);

}  // namespace pomona
