#pragma once
// `Live`: one parameter as the caller sees it now. Valid for one call and never kept: an object
// that holds a model's tensor breaks torch.utils.swap_tensors and loses its masks after
// load_state_dict(assign=True).

#include "pomona/export.h"

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>
#include <vector>

namespace pomona {

// One entry of an optimizer's state for a parameter, under torch's name ("momentum_buffer",
// "exp_avg_sq", ...).
struct State {
  std::string name;
  at::Tensor value;
};

struct Live {
  at::Tensor weight;         // the leaf Parameter; its gradient is weight.grad()
  std::vector<State> state;  // empty before the optimizer's first step
};

// What an optimizer's state tensor is to a mask. kFirst is zeroed when a mask is set; kSecond never
// is, and at re-dense its reborn entries take the survivors' mean; kOther (counters, unknown names)
// is never written.
enum class Moment { kFirst, kSecond, kOther };
POMONA_API Moment moment_of(std::string_view state_name);

}  // namespace pomona
