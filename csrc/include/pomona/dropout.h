#pragma once
// The dropout rate that a pruned layer needs (thesis ch. 3): a sparse layer overfits less. No
// torch; `retrain.h` applies it to the modules of LibTorch, pomona.retrain to those of PyTorch.

#include "pomona/export.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace pomona {

// How many weights a layer has.
struct Connections {
  std::string layer;
  int64_t left = 0;   // C_r, under the mask
  int64_t total = 0;  // C_o
};

// What became of one dropout.
struct AdjustedDropout {
  std::string name;
  double original = 0.0;              // D_o, in [0, 1]
  double adjusted = 0.0;              // D_r, in [0, D_o]
  std::vector<Connections> layers{};  // those it follows; `total` is the most that was ever seen
};

// D_r = D_o sqrt(C_r / C_o). A layer without weights keeps D_o. Source: thesis ch. 3; Han et al.,
// Learning both Weights and Connections, NIPS 2015, §3.2, Eq. 2. REQUIRES: 0 <= left <= total.
POMONA_API double dropout_rate(double original, int64_t left, int64_t total);

// The rate of the dropout `name`, which is `rate` now and follows `layers` (one of them in each
// place where it stands). `earlier` is what the last call has returned for it, or nullptr: while
// `rate` is still what that call has set, its D_o stays D_o, and a layer that has become smaller
// since counts as it was. Throws InvalidArgument for layers of different C_r / C_o.
POMONA_API AdjustedDropout adjust_dropout(const std::string& name, double rate,
                                          std::span<const Connections> layers,
                                          const AdjustedDropout* earlier = nullptr);

}  // namespace pomona
