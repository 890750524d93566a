#include "prune/make_masks.h"

#include "pomona/selection.h"

#include "prune/groups_kernel.h"
#include "prune/select.h"
#include "prune/select_tensors.h"
#include "prune/threshold_kernel.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

namespace pomona {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

// On the CPU, row-major, as float32 or float64: what kernels for structure and thresholds read.
at::Tensor widened(const at::Tensor& scores) {
  const at::ScalarType wide = scores.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return scores.detach().to(at::kCPU, wide).contiguous();
}

template <class Call>
auto with_values(const at::Tensor& wide, Call call) {
  const auto size = static_cast<size_t>(wide.numel());
  if (wide.scalar_type() == at::kDouble) {
    return call(std::span<const double>(wide.const_data_ptr<double>(), size));
  }
  return call(std::span<const float>(wide.const_data_ptr<float>(), size));
}

SelectionRanks selection_ranks(const Ranks& ranks) {
  return {ranks.rank, ranks.size, [&ranks](std::span<int64_t> counts) {
            at::Tensor tensor =
                at::from_blob(counts.data(), {static_cast<int64_t>(counts.size())}, at::kLong);
            ranks.sum(tensor);
          }};
}

// Sums over ranks where each holds other rows.
void sum_shards(std::span<double> values, const MaskRequest& request, const Ranks& ranks) {
  if (ranks.size == 1 || !request.shard) return;
  at::Tensor tensor =
      at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, at::kDouble);
  ranks.sum(tensor);
}

using Pool = std::vector<const MaskRequest*>;

// The masks before this round: all ones where weights may return.
Mask previous_of(const MaskRequest& request) {
  return request.round.may_return ? Mask(request.previous.size()) : request.previous;
}

SelectOptions options_of(const MaskRequest& request, const Ranks& ranks) {
  return {request.by_value, !request.by_value && request.round.sparsity > 0,
          selection_ranks(ranks)};
}

// The scores of a pool where they lie, as one dtype.
std::vector<TensorScores> pooled_scores(const Pool& pool) {
  std::vector<TensorScores> scores;
  bool is_mixed = false;
  for (const auto* request : pool) {
    scores.push_back({selectable(request->scores), !request->shard});
    is_mixed = is_mixed || scores.back().scores.scalar_type() != scores[0].scores.scalar_type();
  }
  for (auto& part : scores) {
    if (is_mixed) part.scores = part.scores.to(at::kDouble);
  }
  return scores;
}

// On the CPU alone: one pass with a bracket from a sample, where select_tensors takes several.
Selection select_on_host(std::span<const TensorScores> pool, double sparsity,
                         std::vector<Mask> previous, const SelectOptions& options) {
  std::vector<Scores> scores;
  for (const auto& [tensor, is_replicated] : pool) {
    scores.push_back(
        {tensor.const_data_ptr(), tensor.numel(), *selection_dtype(tensor), is_replicated});
  }
  return select_pool(scores, sparsity, std::move(previous), options);
}

// One selection over the weights of a pool.
std::vector<MadeMask> select_elements(const Pool& pool, const Ranks& ranks) {
  const std::vector<TensorScores> scores = pooled_scores(pool);
  std::vector<Mask> previous;
  for (const auto* request : pool) previous.push_back(previous_of(*request));
  const double sparsity = pool[0]->round.sparsity;
  const SelectOptions options = options_of(*pool[0], ranks);
  const bool is_on_host = std::all_of(scores.begin(), scores.end(),
                                      [](const auto& part) { return part.scores.is_cpu(); });
  Selection selection = is_on_host ? select_on_host(scores, sparsity, std::move(previous), options)
                                   : select_tensors(scores, sparsity, previous, options);
  std::vector<MadeMask> made;
  for (Mask& mask : selection.masks) made.push_back({std::move(mask), selection.threshold});
  return made;
}

// The mean score of each piece of one parameter. Columns of a sharded parameter are whole only when
// the ranks are summed.
std::vector<double> piece_scores(const MaskRequest& request, const Ranks& ranks) {
  const Granularity& granularity = request.rule.granularity;
  const MatrixShape shape = matrix_shape(request.shape);
  const at::Tensor wide = widened(request.scores);
  GroupSums groups = with_values(
      wide, [&](auto values) { return sum_groups(values, shape, granularity, request.by_value); });
  std::vector<double> sizes(groups.sizes.begin(), groups.sizes.end());
  if (granularity.kind == Granularity::Kind::kColumn) {
    sum_shards(groups.sums, request, ranks);
    sum_shards(sizes, request, ranks);
  }
  for (size_t g = 0; g < sizes.size(); ++g) groups.sums[g] /= std::max(sizes[g], 1.0);
  return std::move(groups.sums);
}

// Which pieces have a weight left, on any rank.
Mask live_pieces(const MaskRequest& request, const Ranks& ranks) {
  const Granularity& granularity = request.rule.granularity;
  Mask live = live_groups(previous_of(request), matrix_shape(request.shape), granularity);
  if (granularity.kind != Granularity::Kind::kColumn) return live;
  std::vector<double> counts(static_cast<size_t>(live.size()));
  for (size_t g = 0; g < counts.size(); ++g) counts[g] = live[static_cast<int64_t>(g)] ? 1 : 0;
  sum_shards(counts, request, ranks);
  for (size_t g = 0; g < counts.size(); ++g) live.set(static_cast<int64_t>(g), counts[g] > 0);
  return live;
}

// One selection over the rows, columns or blocks of a pool.
std::vector<MadeMask> select_pieces(const Pool& pool, const Ranks& ranks) {
  const Granularity& granularity = pool[0]->rule.granularity;
  const bool is_column = granularity.kind == Granularity::Kind::kColumn;
  std::vector<std::vector<double>> means;
  std::vector<Scores> scores;
  std::vector<Mask> previous;
  for (const auto* request : pool) {
    means.push_back(piece_scores(*request, ranks));
    scores.push_back({means.back().data(), static_cast<int64_t>(means.back().size()),
                      DType::kFloat64, is_column || !request->shard});
    previous.push_back(live_pieces(*request, ranks));
  }
  const Selection selection = select_pool(scores, pool[0]->round.sparsity, std::move(previous),
                                          options_of(*pool[0], ranks));
  std::vector<MadeMask> made;
  for (size_t p = 0; p < pool.size(); ++p) {
    made.push_back({without_groups(previous_of(*pool[p]), selection.masks[p],
                                   matrix_shape(pool[p]->shape), granularity),
                    selection.threshold});
  }
  return made;
}

MadeMask select_neighbours(const MaskRequest& request) {
  const at::Tensor wide = widened(request.scores);
  return {with_values(wide,
                      [&](auto values) {
                        return select_n_of_m(values, matrix_shape(request.shape),
                                             request.rule.granularity, previous_of(request),
                                             request.by_value);
                      }),
          0.0};
}

MadeMask select_in_banks(const MaskRequest& request) {
  const at::Tensor wide = widened(request.scores);
  return {with_values(wide,
                      [&](auto values) {
                        return select_balanced(
                            values, matrix_shape(request.shape), request.rule.granularity.rows,
                            request.round.sparsity, previous_of(request), request.by_value);
                      }),
          0.0};
}

// quality * standard deviation of the whole parameter, at this round.
double deviation_threshold(const MaskRequest& request, const Ranks& ranks) {
  const at::Tensor wide = widened(request.scores);
  Moments moments = with_values(wide, [](auto values) { return moments_of(values); });
  std::array<double, 3> sums{moments.count, moments.sum, moments.squares};
  sum_shards(sums, request, ranks);
  moments = {sums[0], sums[1], sums[2]};
  const Criterion& criterion = request.rule.criterion;
  const double quality =
      criterion.quality + criterion.growth * static_cast<double>(request.round.index);
  return quality * moments.deviation();
}

MadeMask apply_threshold(const MaskRequest& request, double threshold) {
  const at::Tensor wide = widened(request.scores);
  const bool has_two = request.round.may_return && !request.round.is_last;
  const double margin = has_two ? request.rule.schedule.margin : 0.0;
  const double low = threshold * (1 - margin);
  const double high = request.round.may_return ? threshold * (1 + margin) : kNever;
  return {
      with_values(
          wide, [&](auto values) { return apply_thresholds(values, request.previous, low, high); }),
      threshold};
}

std::vector<MadeMask> make_pool(const Pool& pool, const Ranks& ranks) {
  const MaskRequest& first = *pool[0];
  if (first.rule.criterion.kind == Criterion::Kind::kStdFactor && !first.by_value) {
    return {apply_threshold(first, deviation_threshold(first, ranks))};
  }
  if (first.rule.granularity.kind == Granularity::Kind::kNOfM) return {select_neighbours(first)};
  if (first.rule.granularity.kind == Granularity::Kind::kBalanced) return {select_in_banks(first)};
  if (first.rule.granularity.kind != Granularity::Kind::kElement) {
    return select_pieces(pool, ranks);
  }
  std::vector<MadeMask> made = select_elements(pool, ranks);
  if (!first.round.may_return || first.round.is_last) return made;
  for (size_t p = 0; p < pool.size(); ++p) made[p] = apply_threshold(*pool[p], made[p].threshold);
  return made;
}

bool is_pooled(const MaskRequest& request) {
  return request.rule.scope == Scope::kGlobal &&
         request.rule.criterion.kind != Criterion::Kind::kStdFactor &&
         request.rule.granularity.kind != Granularity::Kind::kNOfM &&
         request.rule.granularity.kind != Granularity::Kind::kBalanced;
}

}  // namespace

std::vector<MadeMask> make_masks(std::span<const MaskRequest> requests, const Ranks& ranks) {
  std::vector<MadeMask> made(requests.size());
  std::vector<bool> is_done(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    if (is_done[i]) continue;
    Pool pool{&requests[i]};
    std::vector<size_t> places{i};
    for (size_t j = i + 1; j < requests.size() && is_pooled(requests[i]); ++j) {
      if (is_done[j] || requests[j].rule != requests[i].rule ||
          requests[j].by_value != requests[i].by_value) {
        continue;
      }
      pool.push_back(&requests[j]);
      places.push_back(j);
    }
    std::vector<MadeMask> masks = make_pool(pool, ranks);
    for (size_t p = 0; p < places.size(); ++p) {
      made[places[p]] = std::move(masks[p]);
      is_done[places[p]] = true;
    }
  }
  return made;
}

}  // namespace pomona
