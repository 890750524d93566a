#pragma once
// How a parameter is pruned (thesis ch. 3): by which score, in which pieces, how many, and when.
// Plain values: a schedule is a pure function of how often step() has been called, so it resumes.

#include "pomona/export.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace pomona {

// What says how important a weight is; the least important go first.
struct Criterion {
  enum class Kind {
    kMagnitude,  // |w| (thesis §3.2)
    kStdFactor,  // every |w| below quality * (standard deviation of the tensor) goes (thesis §3.2)
    kTaylor,     // sum over steps of |w * dL/dw|, since the last round (Molchanov et al., 2017)
    kObd,     // w^2 * EMA of (dL/dw)^2: the diagonal of Optimal Brain Damage (LeCun et al., 1990)
    kRandom,  // the baseline that everyone must beat
    kScores,  // the caller's, higher is more important; signs count
  };
  Kind kind = Kind::kMagnitude;
  double quality = 1.0;         // kStdFactor: the thesis's quality parameter, above 0
  double growth = 0.0;          // kStdFactor: added to `quality` at each further round
  double decay = 0.98;          // kObd: of the moving average, in [0, 1)
  bool from_optimizer = false;  // kObd: Adam's `exp_avg_sq` serves, and nothing is accumulated
  uint64_t seed = 0;            // kRandom
  bool operator==(const Criterion&) const = default;
};

// The pieces that go or stay together. A piece's score is the mean over its weights.
struct Granularity {
  enum class Kind {
    kElement,
    kRow,     // dimension 0: a neuron's inputs, a filter
    kColumn,  // dimension 1: an input's connections, a channel
    kBlock,   // rows x columns of the matrix [dim 0, the rest]; at the edges, what is left
    kNOfM,    // of each `columns` neighbours along dimension 1, the `rows` largest stay (2:4)
    // Weights, equally many in each of `rows` banks, where row r of dimension 0 is of bank r mod
    // `rows`: the PEs of EIE (load-balance-aware pruning; Han et al., ESE, FPGA 2017, §3.2).
    kBalanced,
  };
  Kind kind = Kind::kElement;
  int64_t rows = 1;
  int64_t columns = 1;
  bool operator==(const Granularity&) const = default;
};

// When masks are made anew; `step` counts the calls of step() from 0.
struct Schedule {
  enum class Kind {
    kOneShot,    // once, at `begin`
    kIterative,  // sparsities[i] at begin + i * every (thesis §3.2: prune, retrain, prune)
    kCubic,      // s = s_f + (s_0 - s_f) (1 - t / length)^3 each `every` (Zhu & Gupta, 2017)
    kGrowing,    // `length` rounds: sparsity * (i + 1) / length, or quality + i * growth
    kSurgery,    // dynamic network surgery (Guo et al., 2016): until `length` weights may come back
  };
  Kind kind = Kind::kOneShot;
  int64_t begin = 0;   // the first step that prunes
  int64_t every = 1;   // steps from one round to the next
  int64_t length = 0;  // kCubic, kSurgery: steps from the first round to the last; kGrowing: rounds
  std::vector<double> sparsities{};  // kIterative
  double initial = 0.0;              // kCubic: s_0
  double margin = 0.1;  // kSurgery: a weight goes below t (1 - margin), returns from t (1 + margin)
  bool operator==(const Schedule&) const = default;
};

enum class Scope { kLayer, kGlobal };

// How one parameter is pruned. Parameters of equal rules with Scope::kGlobal are one pool: their
// scores are compared with one another.
struct Prune {
  double sparsity = 0.0;  // the share of pieces that go, in [0, 1); kStdFactor does not use it
  Criterion criterion{};
  Granularity granularity{};
  Schedule schedule{};
  Scope scope = Scope::kLayer;
  bool may_empty = false;  // whether a parameter may lose all its weights
  bool operator==(const Prune&) const = default;
};

// One making of masks.
struct Round {
  int64_t index = 0;
  double sparsity = 0.0;
  bool may_return = false;  // pruned weights may come back
  bool is_last = false;
};

// The round that falls on this call of step(), if one does.
POMONA_API std::optional<Round> round_at(const Prune& rule, int64_t step);
// The step of the last round: from then on the mask is final.
POMONA_API int64_t last_step(const Schedule& schedule);
// Whether pruned weights may come back after this many calls of step(): between the rounds of a
// kSurgery schedule.
POMONA_API bool may_return_after(const Schedule& schedule, int64_t steps);
// Throws InvalidArgument, naming the member, its condition and its value; `what` begins the
// message.
POMONA_API void check_rule(const Prune& rule, const char* what);

}  // namespace pomona
