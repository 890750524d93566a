#pragma once
// How much of each layer can go (thesis §3.2), and how few bits its codes need (§4.3), for
// LibTorch: change one layer, measure, put it back, go on.
//
//   const auto scan = pomona::sensitivity(
//       *model, [&] { return error_of(model); }, pomona::Rules<pomona::Prune>{{"*", {}}});
//   scan.to_csv("scan.csv");
//   pomona::Pruner pruner(pomona::resolve<pomona::Prune>(parameters, scan.rules(0.1)));

#include "pomona/codebook.h"
#include "pomona/export.h"
#include "pomona/prune_rule.h"
#include "pomona/rules.h"
#include "pomona/scan.h"

#include <torch/nn/module.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace pomona {

struct SensitivityOptions {
  // Sparsities in [0, 1), or bits in 1..8. Nothing: 0, 0.1, ... 0.9, 0.95; of bits there must be
  // some.
  std::vector<double> settings{};
  std::string metric = "error %";  // its name
  bool lower_is_better = true;     // false for accuracies
  // Not empty: a file as of to_csv that grows by a line with each point. A scan that was stopped
  // goes on behind the last one; what the file has already is not measured again.
  std::filesystem::path resume{};
};

// What a scan has measured. `Rule` is Prune (a scan of sparsities) or Share (of bits).
template <class Rule>
struct Sensitivity {
  double dense = 0.0;                 // the metric of the network as it is
  std::vector<ScanPoint> rows{};      // by layer, in the model's order, then by setting
  std::vector<Ruled<Rule>> layers{};  // what was scanned, with the rule at its gentlest setting
  SensitivityOptions options{};       // settings as they were used, ascending
  std::string weights{};  // a checksum of all parameters: another training, another scan

  // For each layer the largest sparsity (the fewest bits) up to which the metric is at most
  // `tolerance` worse than the dense network's, with what else the scan's rule said, but no
  // schedule; nothing where even the gentlest setting is too much. The layers were changed one at a
  // time: together they cost more, which retraining has to win back. Throws InvalidArgument unless
  // tolerance >= 0.
  POMONA_API Rules<Rule> rules(double tolerance) const;
  // Writes the file that pomona.Sensitivity.from_csv reads in Python; whole or not at all. Throws
  // FileError.
  POMONA_API void to_csv(const std::filesystem::path& path) const;
};

// Each point is a real Pruner (Sharer) of one parameter and one step of it; then the weights are
// put back bit for bit, and so are buffers, training flags, gradients and random numbers, after
// each point and after any exception. Nothing is copied but one parameter at a time, the buffers
// and the gradients that exist. `evaluate` measures the model, always in the same state (random
// numbers too), and must not train it; a point whose weights are those of the dense network is not
// evaluated. Sparsity and schedule (bits and codes) of the rules do not count. Source: thesis §3.2;
// Han et al., Learning both Weights and Connections, NIPS 2015, §3. Throws InvalidArgument: no
// evaluate, settings or rules as said above, rules that name no parameter, a metric that is NaN or
// has a name of more than one line, a file to resume that is of another scan, of other weights or
// no such file; FileError: it cannot be read or written; and as Pruner::step or Sharer::assign.
POMONA_API Sensitivity<Prune> sensitivity(torch::nn::Module& model,
                                          const std::function<double()>& evaluate,
                                          const Rules<Prune>& rules,
                                          SensitivityOptions options = {});
// A scan of bits (thesis §4.3, Fig. 4.8).
POMONA_API Sensitivity<Share> sensitivity(torch::nn::Module& model,
                                          const std::function<double()>& evaluate,
                                          const Rules<Share>& rules, SensitivityOptions options);

}  // namespace pomona
