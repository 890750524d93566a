// Pruner: what it holds, what it checks, and step(). Its part in training is in
// pruner_training.cpp, its state in pruner_state.cpp.
#include "pomona/error.h"
#include "pomona/prune.h"

#include "base/text.h"
#include "prune/apply_masks.h"
#include "prune/criterion.h"
#include "prune/make_masks.h"
#include "prune/mask_tensor.h"
#include "prune/select_tensors.h"

#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <exception>
#include <set>

namespace pomona {
namespace {

int64_t element_count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

// What a rule asks of the parameter's shape, and of the other members of the rule.
void check_shape(const std::string& name, const std::vector<int64_t>& shape, const Prune& rule) {
  using Kind = Granularity::Kind;
  const Kind granularity = rule.granularity.kind;
  const bool is_std = rule.criterion.kind == Criterion::Kind::kStdFactor;
  if ((granularity == Kind::kColumn || granularity == Kind::kNOfM) && shape.size() < 2) {
    throw InvalidArgument(text("Pruner: expected `", name,
                               "` to have two or more dimensions for columns or n:m, got ",
                               shape.size(), "."));
  }
  if (is_std && granularity != Kind::kElement) {
    throw InvalidArgument(text("Pruner: expected the standard-deviation criterion of `", name,
                               "` with granularity element, got another one."));
  }
  const bool is_of_weights = is_std || rule.criterion.kind == Criterion::Kind::kMagnitude;
  if (rule.schedule.kind == Schedule::Kind::kSurgery &&
      (granularity != Kind::kElement || !is_of_weights)) {
    throw InvalidArgument(text("Pruner: expected surgery on `", name,
                               "` by magnitude or standard deviation and by element, got another "
                               "criterion or granularity."));
  }
}

// Shards end where blocks end; banks would be spread over them.
void check_blocks(const std::string& name, const std::vector<int64_t>& shape, const Prune& rule,
                  const std::optional<Shard>& shard) {
  if (shard && rule.granularity.kind == Granularity::Kind::kBalanced) {
    throw InvalidArgument(
        text("Pruner: expected `", name, "` to be whole for granularity balanced, got a shard."));
  }
  if (!shard || rule.granularity.kind != Granularity::Kind::kBlock) return;
  const int64_t rows = rule.granularity.rows;
  const int64_t end = shard->first_row + shape.at(0);
  if (shard->first_row % rows != 0 || (end % rows != 0 && end != shard->rows)) {
    throw InvalidArgument(text("Pruner: expected the shards of `", name,
                               "` to hold whole blocks of ", rows, " rows, got rows ",
                               shard->first_row, " to ", end, "."));
  }
}

// NaN or Inf, wherever the tensor lies.
void check_finite(const std::string& what, const at::Tensor& tensor) {
  const at::Tensor values = selectable(tensor);
  const auto index = first_not_finite(values);
  if (!index) return;
  throw InvalidArgument(text("Pruner: expected ", what, " to be finite, got ",
                             values.view(-1)[*index].item().toDouble(), " at index ", *index,
                             " (row-major)."));
}

}  // namespace

Pruner::Pruner(std::vector<Ruled<Prune>> parameters, Ranks ranks) : ranks_(std::move(ranks)) {
  std::set<std::string> seen;
  for (auto& [parameter, rule] : parameters) {
    check_rule(rule, text("Pruner: ", parameter.name).c_str());
    check_shape(parameter.name, parameter.shape, rule);
    if (!seen.insert(parameter.name).second) {
      throw InvalidArgument(
          text("Pruner: expected every name once, got `", parameter.name, "` twice."));
    }
    masks_.emplace_back(element_count(parameter.shape));
    names_.push_back(std::move(parameter.name));
    shapes_.push_back(std::move(parameter.shape));
    rules_.push_back(rule);
  }
  if (ranks_.shards.empty()) ranks_.shards.resize(names_.size());
  if (ranks_.shards.size() != names_.size() || (ranks_.size > 1 && !ranks_.sum)) {
    throw InvalidArgument(text("Pruner: expected `ranks` with a sum and ", names_.size(),
                               " shards, got ", ranks_.shards.size(), "."));
  }
  thresholds_.resize(names_.size());
  memory_.resize(names_.size());
  mask_bytes_.resize(names_.size());
  for (size_t i = 0; i < names_.size(); ++i) kept_.push_back(size_on_all_ranks(i));
}

int64_t Pruner::size_on_all_ranks(size_t i) const {
  const auto& shard = ranks_.shards[i];
  if (!shard) return masks_[i].size();
  int64_t row_size = 1;
  for (size_t d = 1; d < shapes_[i].size(); ++d) row_size *= shapes_[i][d];
  return shard->rows * row_size;
}

void Pruner::set_rules(std::vector<Prune> rules) {
  if (is_pruned_ || rules.size() != names_.size()) {
    throw InvalidArgument(text("Pruner: expected ", names_.size(),
                               " rules before the first round, got ", rules.size(),
                               is_pruned_ ? " after it." : "."));
  }
  for (size_t i = 0; i < rules.size(); ++i) {
    check_rule(rules[i], text("Pruner: ", names_[i]).c_str());
    check_shape(names_[i], shapes_[i], rules[i]);
  }
  rules_ = std::move(rules);
}

void Pruner::check_index(size_t i, const at::Tensor& tensor) const {
  if (i >= names_.size()) {
    throw InvalidArgument(
        text("Pruner: expected an index below ", names_.size(), ", got ", i, "."));
  }
  if (!tensor.defined() || tensor.sizes() != at::IntArrayRef(shapes_[i])) {
    throw InvalidArgument(text("Pruner: expected `", names_[i], "` of shape ",
                               at::IntArrayRef(shapes_[i]), ", got ",
                               tensor.defined() ? text(tensor.sizes()) : "no tensor", "."));
  }
}

void Pruner::check_live(std::span<const Live> live) const {
  if (live.size() != names_.size()) {
    throw InvalidArgument(text("Pruner: expected ", names_.size(), " live parameters, got ",
                               live.size(), ". Pass them in the order of names()."));
  }
  for (size_t i = 0; i < live.size(); ++i) {
    check_index(i, live[i].weight);
    if (!is_plain(live[i].weight)) {
      throw InvalidArgument(text("Pruner: expected `", names_[i],
                                 "` to be a plain floating-point tensor, got ",
                                 live[i].weight.toString(), "."));
    }
  }
}

void Pruner::check_scores(std::span<const at::Tensor> scores) const {
  if (!scores.empty() && scores.size() != names_.size()) {
    throw InvalidArgument(text("Pruner: expected no `scores` or one tensor for each of ",
                               names_.size(), " parameters, got ", scores.size(), "."));
  }
  for (size_t i = 0; i < scores.size(); ++i) {
    check_index(i, scores[i]);
    if (!is_plain(scores[i])) {
      throw InvalidArgument(text("Pruner: expected the scores of `", names_[i],
                                 "` to be a plain floating-point tensor, got ",
                                 scores[i].toString(), "."));
    }
  }
}

void Pruner::agree(const std::function<void()>& check) const {
  if (ranks_.size == 1) return check();
  std::exception_ptr error;
  try {
    check();
  } catch (...) {
    error = std::current_exception();  // thrown again once every rank knows
  }
  at::Tensor failed = at::zeros({ranks_.size}, at::kLong);
  failed[ranks_.rank] = error ? 1 : 0;
  ranks_.sum(failed);
  if (error) std::rethrow_exception(error);
  if (const auto first = failed.nonzero(); first.numel() > 0) {
    throw InvalidArgument(text("Pruner: expected every rank to pass its checks, got an error on ",
                               "rank ", first[0][0].item<int64_t>(), ". Its message says more."));
  }
}

std::vector<std::pair<size_t, Round>> Pruner::due() const {
  std::vector<std::pair<size_t, Round>> rounds;
  for (size_t i = 0; i < names_.size(); ++i) {
    if (const auto round = round_at(rules_[i], steps_)) rounds.emplace_back(i, *round);
  }
  return rounds;
}

at::Tensor Pruner::score(size_t i, const Round& round, const Live& live,
                         std::span<const at::Tensor> scores) const {
  if (!scores.empty()) {
    check_finite(text("the scores of `", names_[i], "`"), scores[i]);
    // -0.0 is 0: by value they would differ.
    return scores[i].detach().add(0);
  }
  if (rules_[i].criterion.kind == Criterion::Kind::kScores) {
    throw InvalidArgument(text("Pruner: expected step() to be given scores, since the rule of `",
                               names_[i], "` asks for them, got none."));
  }
  const at::Tensor weight = live.weight.detach();
  const Memory& memory = memory_[i];
  const at::Tensor dense = memory.shadow.defined() && !memory.is_shadow_out
                               ? weight.add(memory.shadow.to(weight.device()))
                               : weight;
  const auto& shard = ranks_.shards[i];
  const int64_t row_size =
      shapes_[i].empty() || shapes_[i][0] == 0 ? 1 : element_count(shapes_[i]) / shapes_[i][0];
  const at::Tensor found = scores_of(rules_[i].criterion, names_[i], dense, live, memory.scores,
                                     shard ? shard->first_row * row_size : 0, round.index);
  if (!found.is_same(weight)) check_finite(text("the scores of `", names_[i], "`"), found);
  return found;
}

// What every rank holds whole must be pruned alike everywhere.
void Pruner::check_replicas_agree(const std::vector<Mask>& masks) const {
  if (ranks_.size == 1) return;
  at::Tensor hashes = at::zeros({ranks_.size}, at::kLong);
  uint64_t hash = 0;
  for (size_t i = 0; i < masks.size(); ++i) {
    if (!ranks_.shards[i]) hash = hash * 0x100000001b3u + masks[i].hash();
  }
  hashes[ranks_.rank] = static_cast<int64_t>(hash);
  ranks_.sum(hashes);
  if (hashes.eq(hashes[0]).all().item<bool>()) return;
  throw InvalidArgument(
      "Pruner: expected every rank to hold the same weights, got masks that differ. Broadcast the "
      "weights first, as DistributedDataParallel does.");
}

bool Pruner::step(std::span<const Live> live, std::span<const at::Tensor> scores) {
  const c10::AutoGradMode no_grad(false);
  const auto rounds = due();
  std::vector<MaskRequest> requests;
  agree([&] {
    check(live);
    check_scores(scores);
    for (const auto& [i, round] : rounds) {
      check_blocks(names_[i], shapes_[i], rules_[i], ranks_.shards[i]);
      check_finite(text("`", names_[i], "`"), live[i].weight);
      requests.push_back({names_[i], rules_[i], round, shapes_[i], score(i, round, live[i], scores),
                          !scores.empty(), masks_[i], ranks_.shards[i]});
    }
  });
  if (rounds.empty()) {
    ++steps_;
    return false;
  }
  std::vector<MadeMask> made = make_masks(requests, ranks_);
  std::vector<Mask> masks = masks_;
  std::vector<double> thresholds = thresholds_;
  for (size_t r = 0; r < rounds.size(); ++r) {
    const size_t i = rounds[r].first;
    masks[i] = std::move(made[r].mask);
    // Nothing more has gone: the threshold of the round before still holds.
    if (made[r].threshold > 0 || masks[i] != masks_[i]) thresholds[i] = made[r].threshold;
  }
  const std::vector<int64_t> kept = count_kept(masks);
  for (const auto& [i, round] : rounds) {
    if (kept[i] == 0 && size_on_all_ranks(i) > 0 && !rules_[i].may_empty) {
      throw InvalidArgument(text("Pruner: expected `", names_[i],
                                 "` to keep a weight, got a round that prunes all of them. "
                                 "Set may_empty to allow it."));
    }
  }
  check_replicas_agree(masks);
  const bool has_changed = masks != masks_;
  for (const auto& [i, round] : rounds) give_shadow(i, live[i].weight);
  set_masks(std::move(masks), kept, std::move(thresholds));
  commit(live, rounds);
  return has_changed;
}

// The masks are set: weights, first moments and memory follow.
void Pruner::commit(std::span<const Live> live,
                    const std::vector<std::pair<size_t, Round>>& rounds) {
  is_pruned_ = true;
  ++steps_;
  for (const auto& [i, round] : rounds) {
    Memory& memory = memory_[i];
    if (may_return(i)) {
      take_shadow(i, live[i].weight);
    } else {
      memory.shadow = at::Tensor();
      memory.is_shadow_out = false;
    }
    if (rules_[i].criterion.kind == Criterion::Kind::kTaylor || round.is_last) {
      memory.scores = at::Tensor();
      memory.accumulated = 0;
    }
  }
  zero(live, all_or({}), true);
}

}  // namespace pomona
