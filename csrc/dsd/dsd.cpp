// The phases of DSD as counters; masks and moments are the Pruner's, learning rates the shell's.
#include "pomona/dsd.h"

#include "pomona/error.h"

#include "base/text.h"

#include <cmath>

namespace pomona {
namespace {

constexpr std::array<std::string_view, 4> kPhaseNames{"dense", "sparse", "redense", "done"};
constexpr size_t kPhases = 3;  // those that have a length

void check(const DSD::Options& options) {
  int64_t sum = 0;
  for (size_t p = 0; p < kPhases; ++p) {
    const int64_t length = options.lengths[p];
    const double factor = options.lr_factors[p];
    if (length < 0) {
      throw InvalidArgument(text("DSD: expected the length of the ", kPhaseNames[p],
                                 " phase to be at least 0, got ", length, "."));
    }
    if (!(std::isfinite(factor) && factor > 0)) {
      throw InvalidArgument(text("DSD: expected the lr factor of the ", kPhaseNames[p],
                                 " phase to be finite and above 0, got ", factor, "."));
    }
    sum += length;
  }
  if (sum < 1) {
    throw InvalidArgument("DSD: expected phases of at least 1 in total, got lengths (0, 0, 0).");
  }
}

}  // namespace

std::string_view phase_name(Phase phase) {
  return kPhaseNames[static_cast<size_t>(phase)];
}

DSD::DSD(std::vector<Ruled<Prune>> parameters, Options options, AllReduce all_reduce)
    : options_(options), pruner_(std::move(parameters), std::move(all_reduce)) {
  check(options_);
}

Phase DSD::first_phase_from(size_t phase) const {
  while (phase < kPhases && options_.lengths[phase] == 0) ++phase;
  return static_cast<Phase>(phase);
}

double DSD::lr_factor() const {
  size_t phase = static_cast<size_t>(phase_);
  if (phase_ == Phase::kDone) {
    do --phase;
    while (options_.lengths[phase] == 0);
  }
  return options_.lr_factors[phase];
}

int64_t DSD::remaining() const {
  int64_t left = -steps_in_phase_;
  for (size_t p = static_cast<size_t>(phase_); p < kPhases; ++p) left += options_.lengths[p];
  return phase_ == Phase::kDone ? 0 : left;
}

Transition DSD::switch_to(Phase phase, std::span<const Live> live) {
  if (phase == Phase::kSparse && options_.masks) {
    pruner_.step(live);
  } else if (phase == Phase::kRedense) {
    pruner_.release(live, true);
  }
  // Into kDone nothing changes: without a re-dense phase the network stays sparse.
  phase_ = phase;
  steps_in_phase_ = 0;
  return {phase_, lr_factor()};
}

std::optional<Transition> DSD::start(std::span<const Live> live) {
  if (is_started_) return std::nullopt;
  const Phase first = first_phase_from(0);
  std::optional<Transition> transition;
  if (first != Phase::kDense) transition = switch_to(first, live);
  is_started_ = true;
  return transition;
}

void DSD::check_running(const char* verb) const {
  if (phase_ == Phase::kDone) {
    throw InvalidArgument(text("DSD: expected ", verb, "() before the end, got it after all ",
                               steps_, " have been trained."));
  }
  if (!is_started_ && first_phase_from(0) != Phase::kDense) {
    throw InvalidArgument(text("DSD: expected start() before ", verb,
                               "(), since the first phase is not dense, got none."));
  }
}

std::optional<Transition> DSD::step(std::span<const Live> live) {
  check_running("step");
  pruner_.check(live);
  std::optional<Transition> transition;
  if (steps_in_phase_ + 1 >= options_.lengths[static_cast<size_t>(phase_)]) {
    transition = switch_to(first_phase_from(static_cast<size_t>(phase_) + 1), live);
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
  const auto transition = switch_to(first_phase_from(static_cast<size_t>(phase_) + 1), live);
  is_started_ = true;
  return transition;
}

DSD::Snapshot DSD::state() const {
  return {phase_, steps_, steps_in_phase_, is_started_, pruner_.state()};
}

void DSD::load_state(const Snapshot& snapshot) {
  const auto phase = static_cast<size_t>(snapshot.phase);
  const bool is_running = phase < kPhases && (snapshot.is_started || snapshot.steps > 0);
  const bool fits = phase <= kPhases && snapshot.steps_in_phase >= 0 &&
                    snapshot.steps >= snapshot.steps_in_phase &&
                    (!is_running || snapshot.steps_in_phase < options_.lengths[phase]);
  if (!fits) {
    throw InvalidArgument(
        text("DSD: expected a state that fits phases of lengths (", options_.lengths[0], ", ",
             options_.lengths[1], ", ", options_.lengths[2], "), got ", snapshot.steps_in_phase,
             " trained in phase ", phase <= kPhases ? kPhaseNames[phase] : "unknown", "."));
  }
  pruner_.load_state(snapshot.pruner);
  phase_ = snapshot.phase;
  steps_ = snapshot.steps;
  steps_in_phase_ = snapshot.steps_in_phase;
  is_started_ = snapshot.is_started;
}

}  // namespace pomona
