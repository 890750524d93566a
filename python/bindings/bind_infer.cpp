// Packing, for pomona.nn and pomona.infer; the product itself is torch.ops.pomona.packed_linear.
#include "pomona/infer.h"
#include "pomona/io.h"

#include "bindings.h"

#include <torch/csrc/utils/pybind.h>

namespace py = pybind11;

namespace pomona::bindings {
namespace {

using ReleaseGil = py::call_guard<py::gil_scoped_release>;

// (layout, rows, cols, nnz) of a buffer, every index checked.
std::tuple<std::string, int64_t, int64_t, int64_t> packed_facts(const at::Tensor& packed) {
  const auto matrix = from_tensor(packed);
  return {std::string(layout_name(matrix.layout)), matrix.rows, matrix.cols, matrix.nnz};
}

}  // namespace

void bind_infer(py::module_& m) {
  m.def(
      "pack",
      [](const at::Tensor& weight, const std::string& name) {
        return to_tensor(pack(to_weight(name, weight)));
      },
      py::arg("weight"), py::arg("name"), ReleaseGil(),
      "The packed bytes of a matrix, uint8 on the CPU.");
  m.def("packed_facts", &packed_facts, py::arg("packed"),
        "(layout, rows, cols, nnz) of packed bytes, every index checked.");
}

}  // namespace pomona::bindings
