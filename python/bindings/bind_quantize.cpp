#include "bindings.h"

namespace pomona::bindings {

void bind_quantize(pybind11::module_&) {}

}  // namespace pomona::bindings
