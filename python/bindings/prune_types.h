#pragma once
// What bind_prune.cpp and bind_dsd.cpp share: plain tuples that Python sees in place of C++
// structs.

#include "pomona/prune.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace pomona::bindings {

// (kind, quality, growth, decay, from_optimizer, seed).
using CriterionRow = std::tuple<std::string, double, double, double, bool, uint64_t>;
// (kind, rows, columns).
using GranularityRow = std::tuple<std::string, int64_t, int64_t>;
// (kind, begin, every, length, sparsities, initial, margin).
using ScheduleRow =
    std::tuple<std::string, int64_t, int64_t, int64_t, std::vector<double>, double, double>;
// (sparsity, criterion, granularity, schedule, is global, may be empty).
using RuleRow = std::tuple<double, CriterionRow, GranularityRow, ScheduleRow, bool, bool>;
// (name, shape, rule) of each parameter under a rule.
using PruneRows = std::vector<std::tuple<std::string, std::vector<int64_t>, RuleRow>>;

Prune to_rule(const RuleRow& row);
std::vector<Ruled<Prune>> to_ruled(const PruneRows& rows);

// (rank, size, sum, [(first row, rows) or None, ...]); None on one process.
using RanksRow = std::optional<std::tuple<int64_t, int64_t, AllReduce,
                                          std::vector<std::optional<std::pair<int64_t, int64_t>>>>>;
Ranks to_ranks(const RanksRow& row);

// (is_pruned, steps, thresholds, accumulated, masks, scores, shadows), tensors as (name, tensor).
using Tensors = Pruner::Snapshot::Tensors;
using PrunerState =
    std::tuple<bool, int64_t, std::vector<double>, std::vector<int64_t>, Tensors, Tensors, Tensors>;

inline PrunerState to_state(const Pruner::Snapshot& snapshot) {
  return {snapshot.is_pruned, snapshot.steps,  snapshot.thresholds, snapshot.accumulated,
          snapshot.masks,     snapshot.scores, snapshot.shadows};
}

inline Pruner::Snapshot to_snapshot(const PrunerState& state) {
  const auto& [is_pruned, steps, thresholds, accumulated, masks, scores, shadows] = state;
  return {is_pruned, steps, thresholds, accumulated, masks, scores, shadows};
}

}  // namespace pomona::bindings
