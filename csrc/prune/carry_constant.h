#pragma once
// The constant that a neuron without inputs is, carried to the layer that reads it (thesis ch. 3).

#include "pomona/dead_plan.h"

#include <string>
#include <vector>

namespace pomona {

// Neurons that stay, bool [neurons], and why.
struct Stays {
  at::Tensor where;
  std::string why;
};

struct Carried {
  at::Tensor values;        // [neurons * spread], of the weight's dtype: what the consumer reads
  std::vector<Stays> whys;  // neurons whose output is no constant
};

// `bias` [neurons] is what each neuron without inputs gives, undefined: 0. Not differentiable.
Carried carry_constant(const DeadLayer& layer, const at::Tensor& bias);

}  // namespace pomona
