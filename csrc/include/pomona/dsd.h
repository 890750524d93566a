#pragma once
// Dense-Sparse-Dense training (thesis ch. 5; ICLR 2017): train, train under a mask, drop the mask
// and train again.

#include "pomona/export.h"
#include "pomona/live.h"
#include "pomona/prune.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace pomona {

enum class Phase { kDense, kSparse, kRedense, kDone };
POMONA_API std::string_view phase_name(Phase phase);  // "dense", "sparse", "redense", "done"

// A switch that has happened, and what the shell must do to the learning rate: it is the user's lr
// (whatever a scheduler makes of it) times lr_factor, until the next switch.
struct Transition {
  Phase to;
  double lr_factor;
};

class POMONA_API DSD {
 public:
  struct Options {
    // Lengths of the phases, in the caller's unit (epochs, or steps): dense, sparse, re-dense, and
    // two more for each further cycle (sparse, re-dense). Each at least 0, their sum at least 1.
    std::vector<int64_t> lengths{1, 1, 1};
    // The user's lr times this, one for each phase; nothing: a decade at each switch. Source: DSD
    // Tables 2-5 (GoogLeNet, ResNet-18, ResNet-50).
    std::vector<double> lr_factors{};
    // false: the same phases and lr drops without a mask (LLR), the control that shows what the
    // mask itself adds.
    bool masks = true;
    // The rules of each cycle, one for each parameter; nothing: the same in every cycle. Source:
    // DSD Table 8 (DeepSpeech: 50 %, then 25 %).
    std::vector<std::vector<Prune>> cycles{};
  };
  // Throws InvalidArgument for an even number of lengths or fewer than three, a sum of lengths
  // below 1, a negative length, a factor that is not finite and positive, other counts of factors
  // or cycles, and a rule that is not one-shot: a mask is made once for each sparse phase.
  DSD(std::vector<Ruled<Prune>> parameters, Options options, Ranks ranks = {});

  // Enters the first phase that has a length; call it before the first epoch. A second call does
  // nothing. Only a schedule whose first phase is not dense switches here.
  std::optional<Transition> start(std::span<const Live> live);
  // One unit (epoch or step) has been trained; in the sparse phase nonzeros under the mask are an
  // error. At the end of a phase it switches to the next that has a length: into sparse,
  // masks are selected once, weights and first moments zeroed; into re-dense, masks are dropped,
  // reborn weights start at 0 and second moments are seeded. Throws InvalidArgument after the end,
  // before start() when the first phase is not dense, and as Pruner::step does; then nothing has
  // changed.
  std::optional<Transition> step(std::span<const Live> live);
  // Ends the current phase now (early stopping), without counting a unit: after step(), when the
  // loss has stopped falling. Errors as step().
  std::optional<Transition> advance(std::span<const Live> live);

  Phase phase() const { return phase_at(position_); }
  // Which of the lengths this phase is; options().lengths.size() after the end.
  int64_t position() const { return static_cast<int64_t>(position_); }
  // Of the phase; after the end, that of the last phase that had a length.
  double lr_factor() const;
  int64_t steps() const { return steps_; }  // units trained so far
  int64_t steps_in_phase() const { return steps_in_phase_; }
  // Units left if no phase is cut short.
  int64_t remaining() const;
  bool is_started() const { return is_started_; }
  const Options& options() const { return options_; }
  Pruner& pruner() { return pruner_; }
  const Pruner& pruner() const { return pruner_; }

  struct Snapshot {
    int64_t position = 0;
    int64_t steps = 0;
    int64_t steps_in_phase = 0;
    bool is_started = false;
    Pruner::Snapshot pruner;
  };
  Snapshot state() const;
  // Throws InvalidArgument as Pruner::load_state, or when the counters do not fit the lengths; then
  // nothing has changed.
  void load_state(const Snapshot& snapshot);

 private:
  void check_running(const char* verb) const;
  // Everything that can fail happens before anything changes.
  Transition switch_to(size_t position, std::span<const Live> live);
  Phase phase_at(size_t position) const;
  size_t first_from(size_t position) const;

  Options options_;
  Pruner pruner_;
  size_t position_ = 0;
  int64_t steps_ = 0;
  int64_t steps_in_phase_ = 0;
  bool is_started_ = false;
};

}  // namespace pomona
