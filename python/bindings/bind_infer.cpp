#include "bindings.h"

namespace pomona::bindings {

void bind_infer(pybind11::module_&) {}

}  // namespace pomona::bindings
