#include "pomona/error.h"
#include "pomona/optim.h"

#include <torch/optim/lbfgs.h>

namespace pomona {

void step(torch::optim::Optimizer& optimizer, std::span<const Live> live, Sharer& sharer) {
  if (dynamic_cast<torch::optim::LBFGS*>(&optimizer) != nullptr) {
    throw InvalidArgument(
        "step: expected `optimizer` to be element-wise, got LBFGS: its direction comes from inner "
        "products over all weights. Use SGD, Adam, AdamW, RMSprop or Adagrad.");
  }
  sharer.pool(live);
  optimizer.step();
  sharer.keep(live);
  const auto due = sharer.due();
  if (due.empty()) return;
  std::vector<Live> rows;
  for (const size_t i : due) rows.push_back(live[i]);
  sharer.reassign(due, rows);
}

}  // namespace pomona
