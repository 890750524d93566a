#include "pomona/live.h"

#include <algorithm>
#include <array>

namespace pomona {
namespace {

// Source: the state of the optimizers of torch.optim and torch::optim.
constexpr std::array<std::string_view, 5> kFirstMoments{
    "momentum_buffer",  // SGD, RMSprop, Muon
    "exp_avg",          // Adam and its kin
    "grad_avg",         // RMSprop, centered
    "prev",             // Rprop
    "ax",               // ASGD: the average of the weight itself
};
constexpr std::array<std::string_view, 7> kSecondMoments{
    "exp_avg_sq",      // Adam and its kin
    "max_exp_avg_sq",  // amsgrad
    "square_avg",      // RMSprop, Adadelta
    "sum",             // Adagrad
    "exp_inf",         // Adamax
    "acc_delta",       // Adadelta
    "variance",        // Adafactor, for parameters that it does not factor
};

}  // namespace

Moment moment_of(std::string_view state_name) {
  const auto holds = [&](const auto& names) {
    return std::find(names.begin(), names.end(), state_name) != names.end();
  };
  if (holds(kFirstMoments)) return Moment::kFirst;
  return holds(kSecondMoments) ? Moment::kSecond : Moment::kOther;
}

}  // namespace pomona
