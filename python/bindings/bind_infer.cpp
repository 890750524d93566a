// Packing, for pomona.nn and pomona.infer; the product itself is torch.ops.pomona.packed_linear.
#include "pomona/infer.h"
#include "pomona/io.h"

#include "bindings.h"

#include <torch/csrc/utils/pybind.h>

namespace py = pybind11;

namespace pomona::bindings {
namespace {

using ReleaseGil = py::call_guard<py::gil_scoped_release>;

PackOptions options_of(const std::string& layout, const std::string& precision, bool is_quick) {
  return {.layout = layout_of(layout), .precision = precision_of(precision), .is_quick = is_quick};
}

std::tuple<std::string, std::string, int64_t, int64_t, int64_t> packed_facts(
    const at::Tensor& packed) {
  const auto matrix = from_tensor(packed);
  return {std::string(layout_name(matrix.layout)), std::string(precision_name(matrix.precision)),
          matrix.rows, matrix.cols, matrix.nnz};
}

}  // namespace

void bind_infer(py::module_& m) {
  m.def(
      "pack",
      [](const at::Tensor& weight, const std::string& name, const std::string& layout,
         const std::string& precision, bool is_quick) {
        return to_tensor(pack(to_weight(name, weight), options_of(layout, precision, is_quick),
                              torch_threads()));
      },
      py::arg("weight"), py::arg("name"), py::arg("layout") = "csr16",
      py::arg("precision") = "fp32", py::arg("is_quick") = false, ReleaseGil(),
      "The packed bytes of a matrix, uint8 on the CPU.");
  m.def(
      "pack_rows",
      [](const at::Tensor& weight, const std::string& name) {
        return to_tensor(pack_rows(to_weight(name, weight)));
      },
      py::arg("weight"), py::arg("name"), ReleaseGil(),
      "The packed bytes of a matrix whose rows are looked up, uint8 on the CPU.");
  m.def(
      "layouts_for",
      [](const at::Tensor& weight, const std::string& name, const std::string& precision) {
        std::vector<std::string> names;
        for (const auto& options : layouts_for(to_weight(name, weight), precision_of(precision))) {
          names.emplace_back(layout_name(options.layout));
        }
        return names;
      },
      py::arg("weight"), py::arg("name"), py::arg("precision"), ReleaseGil(),
      "The layouts that can hold a matrix, the likely fastest first.");
  m.def(
      "fast_precisions",
      [] {
        std::vector<std::string> names;
        for (const Precision precision : fast_precisions()) {
          names.emplace_back(precision_name(precision));
        }
        return names;
      },
      "The precisions that this processor has instructions for.");
  m.def("packed_facts", &packed_facts, py::arg("packed"),
        "(layout, precision, rows, cols, nnz) of packed bytes, every index checked.");
}

}  // namespace pomona::bindings
