#include "pomona/prune_rule.h"

#include "pomona/error.h"

#include "base/text.h"

#include <algorithm>
#include <cmath>

namespace pomona {
namespace {

template <class Value>
void require(bool holds, const char* what, const char* member, const char* condition, Value value) {
  if (!holds) {
    throw InvalidArgument(
        text(what, ": expected `", member, "` ", condition, ", got ", value, "."));
  }
}

bool is_share(double sparsity) {
  return sparsity >= 0 && sparsity < 1;
}

void check_criterion(const Criterion& criterion, const char* what) {
  const auto positive = [](double x) { return std::isfinite(x) && x > 0; };
  require(positive(criterion.quality), what, "quality", "finite and above 0", criterion.quality);
  require(std::isfinite(criterion.growth) && criterion.growth >= 0, what, "growth",
          "finite and at least 0", criterion.growth);
  require(is_share(criterion.decay), what, "decay", "in [0, 1)", criterion.decay);
}

void check_granularity(const Granularity& granularity, const char* what) {
  require(granularity.rows >= 1, what, "rows", "of at least 1", granularity.rows);
  require(granularity.columns >= 1, what, "columns", "of at least 1", granularity.columns);
  if (granularity.kind == Granularity::Kind::kNOfM) {
    require(granularity.rows < granularity.columns, what, "n:m", "with n below m",
            text(granularity.rows, ":", granularity.columns));
  }
}

void check_schedule(const Schedule& schedule, const char* what) {
  using Kind = Schedule::Kind;
  require(schedule.begin >= 0, what, "begin", "of at least 0", schedule.begin);
  require(schedule.every >= 1, what, "every", "of at least 1", schedule.every);
  const bool has_length = schedule.kind == Kind::kCubic || schedule.kind == Kind::kGrowing ||
                          schedule.kind == Kind::kSurgery;
  require(!has_length || schedule.length >= 1, what, "length", "of at least 1", schedule.length);
  require(is_share(schedule.initial), what, "initial", "in [0, 1)", schedule.initial);
  require(schedule.margin >= 0 && schedule.margin < 1, what, "margin", "in [0, 1)",
          schedule.margin);
  require(schedule.kind != Kind::kIterative || !schedule.sparsities.empty(), what, "sparsities",
          "of at least one round", "none");
  for (const double sparsity : schedule.sparsities) {
    require(is_share(sparsity), what, "sparsities", "in [0, 1)", sparsity);
  }
  require(std::is_sorted(schedule.sparsities.begin(), schedule.sparsities.end()), what,
          "sparsities", "ascending", text("[", join(schedule.sparsities), "]"));
}

// Which round falls on this step, or nothing: begin, begin + every, ... and always the last one.
std::optional<int64_t> index_at(const Schedule& schedule, int64_t step) {
  const int64_t since = step - schedule.begin;
  if (since < 0 || step > last_step(schedule)) return std::nullopt;
  if (since % schedule.every == 0) return since / schedule.every;
  if (step == last_step(schedule)) return since / schedule.every + 1;
  return std::nullopt;
}

double cubic(const Schedule& schedule, double target, int64_t step) {
  const double left =
      1.0 - static_cast<double>(step - schedule.begin) / static_cast<double>(schedule.length);
  return target + (schedule.initial - target) * left * left * left;
}

}  // namespace

int64_t last_step(const Schedule& schedule) {
  switch (schedule.kind) {
    case Schedule::Kind::kOneShot:
      return schedule.begin;
    case Schedule::Kind::kIterative:
      return schedule.begin +
             (static_cast<int64_t>(schedule.sparsities.size()) - 1) * schedule.every;
    case Schedule::Kind::kGrowing:
      return schedule.begin + (schedule.length - 1) * schedule.every;
    default:
      return schedule.begin + schedule.length;
  }
}

bool may_return_after(const Schedule& schedule, int64_t steps) {
  return schedule.kind == Schedule::Kind::kSurgery && steps > schedule.begin &&
         steps <= last_step(schedule);
}

std::optional<Round> round_at(const Prune& rule, int64_t step) {
  const Schedule& schedule = rule.schedule;
  const auto index = index_at(schedule, step);
  if (!index) return std::nullopt;
  Round round{*index, rule.sparsity, false, step == last_step(schedule)};
  if (schedule.kind == Schedule::Kind::kIterative) {
    round.sparsity = schedule.sparsities[static_cast<size_t>(*index)];
  } else if (schedule.kind == Schedule::Kind::kCubic) {
    round.sparsity = cubic(schedule, rule.sparsity, step);
  } else if (schedule.kind == Schedule::Kind::kGrowing) {
    round.sparsity *= static_cast<double>(*index + 1) / static_cast<double>(schedule.length);
  } else if (schedule.kind == Schedule::Kind::kSurgery) {
    round.may_return = true;
  }
  return round;
}

void check_rule(const Prune& rule, const char* what) {
  require(is_share(rule.sparsity), what, "sparsity", "in [0, 1)", rule.sparsity);
  check_criterion(rule.criterion, what);
  check_granularity(rule.granularity, what);
  check_schedule(rule.schedule, what);
}

}  // namespace pomona
