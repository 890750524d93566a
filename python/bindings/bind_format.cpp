#include "bindings.h"

namespace pomona::bindings {

void bind_format(pybind11::module_&) {}

}  // namespace pomona::bindings
