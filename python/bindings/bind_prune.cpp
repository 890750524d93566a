#include "bindings.h"

namespace pomona::bindings {

void bind_prune(pybind11::module_&) {}

}  // namespace pomona::bindings
