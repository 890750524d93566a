// The phases of DSD as counters; masks and moments are the Pruner's, learning rates the shell's.
#include "pomona/dsd.h"

#include "pomona/error.h"

#include "base/text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace pomona {
namespace {

constexpr std::array<std::string_view, 4> kPhaseNames{"dense", "sparse", "redense", "done"};

// Dense once, then sparse and re-dense by turns.
Phase kind_of(size_t position) {
  if (position == 0) return Phase::kDense;
  return position % 2 == 1 ? Phase::kSparse : Phase::kRedense;
}

void check_phase(size_t position, int64_t length, double factor) {
  const auto name = phase_name(kind_of(position));
  if (length < 0) {
    throw InvalidArgument(text("DSD: expected the length of the ", name,
                               " phase to be at least 0, got ", length, "."));
  }
  if (!(std::isfinite(factor) && factor > 0)) {
    throw InvalidArgument(text("DSD: expected the lr factor of the ", name,
                               " phase to be finite and above 0, got ", factor, "."));
  }
}

void check_one_shot(const std::string& name, const Prune& rule) {
  if (rule.schedule == Schedule{}) return;
  throw InvalidArgument(text("DSD: expected a one-shot schedule for `", name,
                             "`, since a mask is made once for each sparse phase, got another."));
}

// Checks what does not depend on the parameters; fills in the default factors.
DSD::Options checked(DSD::Options options) {
  const size_t phases = options.lengths.size();
  if (phases < 3 || phases % 2 == 0) {
    throw InvalidArgument(text("DSD: expected lengths of dense, sparse, re-dense and two more for ",
                               "each further cycle, got ", phases, "."));
  }
  if (options.lr_factors.empty()) {
    for (size_t p = 0; p < phases; ++p) {
      options.lr_factors.push_back(std::pow(10.0, -static_cast<double>(p)));
    }
  }
  if (options.lr_factors.size() != phases) {
    throw InvalidArgument(text("DSD: expected an lr factor for each of ", phases, " phases, got ",
                               options.lr_factors.size(), "."));
  }
  for (size_t p = 0; p < phases; ++p) check_phase(p, options.lengths[p], options.lr_factors[p]);
  if (std::accumulate(options.lengths.begin(), options.lengths.end(), int64_t{0}) < 1) {
    throw InvalidArgument(text("DSD: expected phases of at least 1 in total, got lengths (",
                               join(options.lengths), ")."));
  }
  if (!options.cycles.empty() && options.cycles.size() != phases / 2) {
    throw InvalidArgument(text("DSD: expected rules for each of ", phases / 2, " cycles, got ",
                               options.cycles.size(), "."));
  }
  return options;
}

}  // namespace

std::string_view phase_name(Phase phase) {
  return kPhaseNames[static_cast<size_t>(phase)];
}

DSD::DSD(std::vector<Ruled<Prune>> parameters, Options options, Ranks ranks)
    : options_(checked(std::move(options))), pruner_(std::move(parameters), std::move(ranks)) {
  const auto& names = pruner_.names();
  for (size_t i = 0; i < names.size(); ++i) check_one_shot(names[i], pruner_.rules()[i]);
  for (const auto& rules : options_.cycles) {
    pruner_.set_rules(rules);  // refuses another count, or a rule that does not fit
    for (size_t i = 0; i < names.size(); ++i) check_one_shot(names[i], rules[i]);
  }
  if (!options_.cycles.empty()) pruner_.set_rules(options_.cycles[0]);
}

Phase DSD::phase_at(size_t position) const {
  return position < options_.lengths.size() ? kind_of(position) : Phase::kDone;
}

size_t DSD::first_from(size_t position) const {
  while (position < options_.lengths.size() && options_.lengths[position] == 0) ++position;
  return position;
}

double DSD::lr_factor() const {
  size_t position = position_;
  if (position == options_.lengths.size()) {
    do --position;
    while (options_.lengths[position] == 0);
  }
  return options_.lr_factors[position];
}

int64_t DSD::remaining() const {
  if (phase() == Phase::kDone) return 0;
  return std::accumulate(options_.lengths.begin() + position(), options_.lengths.end(),
                         -steps_in_phase_);
}

Transition DSD::switch_to(size_t position, std::span<const Live> live) {
  const Phase next = phase_at(position);
  const size_t cycle = (position - 1) / 2;
  if (next == Phase::kSparse && options_.masks) {
    if (pruner_.is_pruned()) pruner_.release(live, true);  // a re-dense phase of no length
    if (!options_.cycles.empty()) pruner_.set_rules(options_.cycles[cycle]);
    pruner_.step(live);
  } else if (next == Phase::kRedense) {
    pruner_.release(live, true);
  }
  // Into kDone nothing changes: without a re-dense phase the network stays sparse.
  position_ = position;
  steps_in_phase_ = 0;
  return {next, lr_factor()};
}

std::optional<Transition> DSD::start(std::span<const Live> live) {
  if (is_started_) return std::nullopt;
  const size_t first = first_from(0);
  std::optional<Transition> transition;
  if (first != 0) transition = switch_to(first, live);
  is_started_ = true;
  return transition;
}

void DSD::check_running(const char* verb) const {
  if (phase() == Phase::kDone) {
    throw InvalidArgument(text("DSD: expected ", verb, "() before the end, got it after all ",
                               steps_, " have been trained."));
  }
  if (!is_started_ && first_from(0) != 0) {
    throw InvalidArgument(text("DSD: expected start() before ", verb,
                               "(), since the first phase is not dense, got none."));
  }
}

std::optional<Transition> DSD::step(std::span<const Live> live) {
  check_running("step");
  pruner_.check(live);
  std::optional<Transition> transition;
  if (steps_in_phase_ + 1 >= options_.lengths[position_]) {
    transition = switch_to(first_from(position_ + 1), live);
  } else {
    ++steps_in_phase_;
  }
  is_started_ = true;
  ++steps_;
  return transition;
}

std::optional<Transition> DSD::advance(std::span<const Live> live) {
  check_running("advance");
  pruner_.check(live);
  const auto transition = switch_to(first_from(position_ + 1), live);
  is_started_ = true;
  return transition;
}

DSD::Snapshot DSD::state() const {
  return {position(), steps_, steps_in_phase_, is_started_, pruner_.state()};
}

void DSD::load_state(const Snapshot& snapshot) {
  const auto phases = static_cast<int64_t>(options_.lengths.size());
  const bool is_known = snapshot.position >= 0 && snapshot.position <= phases;
  const auto position = static_cast<size_t>(is_known ? snapshot.position : phases);
  const bool is_running = snapshot.position < phases && (snapshot.is_started || snapshot.steps > 0);
  const bool fits = is_known && snapshot.steps_in_phase >= 0 &&
                    snapshot.steps >= snapshot.steps_in_phase &&
                    (!is_running || snapshot.steps_in_phase < options_.lengths[position]);
  if (!fits) {
    throw InvalidArgument(text("DSD: expected a state that fits phases of lengths (",
                               join(options_.lengths), "), got ", snapshot.steps_in_phase,
                               " trained in phase ",
                               is_known ? phase_name(phase_at(position)) : "unknown", "."));
  }
  pruner_.load_state(snapshot.pruner);
  position_ = position;
  steps_ = snapshot.steps;
  steps_in_phase_ = snapshot.steps_in_phase;
  is_started_ = snapshot.is_started;
  if (!options_.cycles.empty() && !pruner_.is_pruned()) {
    pruner_.set_rules(options_.cycles[std::min((position + 1) / 2, options_.cycles.size() - 1)]);
  }
}

}  // namespace pomona
