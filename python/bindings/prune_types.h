#pragma once
// What bind_prune.cpp and bind_dsd.cpp share: plain tuples that Python sees in place of C++
// structs.

#include "pomona/prune.h"

#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace pomona::bindings {

// (name, shape, sparsity) of each parameter under a rule.
using PruneRows = std::vector<std::tuple<std::string, std::vector<int64_t>, double>>;
std::vector<Ruled<Prune>> to_ruled(const PruneRows& rows);

// (is_pruned, thresholds, [(name, mask bytes), ...]).
using PrunerState =
    std::tuple<bool, std::vector<double>, std::vector<std::pair<std::string, at::Tensor>>>;

inline PrunerState to_state(const Pruner::Snapshot& snapshot) {
  return {snapshot.is_pruned, snapshot.thresholds, snapshot.masks};
}

inline Pruner::Snapshot to_snapshot(const PrunerState& state) {
  const auto& [is_pruned, thresholds, masks] = state;
  return {is_pruned, thresholds, masks};
}

}  // namespace pomona::bindings
