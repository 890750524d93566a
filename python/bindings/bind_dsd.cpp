#include "bindings.h"

namespace pomona::bindings {

void bind_dsd(pybind11::module_&) {}

}  // namespace pomona::bindings
