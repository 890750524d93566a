// Packing, for pomona.nn and pomona.infer; the product itself is torch.ops.pomona.packed_linear.
#include "pomona/cached_tensors.h"
#include "pomona/infer.h"
#include "pomona/io.h"

#include "bindings.h"

#include <torch/csrc/utils/pybind.h>

#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <filesystem>
#include <map>
#include <optional>

namespace py = pybind11;

namespace pomona::bindings {
namespace {

using ReleaseGil = py::call_guard<py::gil_scoped_release>;

PackOptions options_of(const std::string& layout, const std::string& precision, bool is_quick) {
  return {.layout = layout_of(layout), .precision = precision_of(precision), .is_quick = is_quick};
}

std::tuple<std::string, std::string, int64_t, int64_t, int64_t> packed_facts(
    const at::Tensor& packed) {
  const auto matrix = facts_of(packed);
  return {std::string(layout_name(matrix.layout)), std::string(precision_name(matrix.precision)),
          matrix.rows, matrix.cols, matrix.nnz};
}

using Tensors = std::map<std::string, at::Tensor>;

std::optional<std::pair<Tensors, Tensors>> read_cache(const std::filesystem::path& path,
                                                      const std::string& key) {
  const auto found = read_cached_tensors(path, key);
  if (!found) return std::nullopt;
  return std::pair{Tensors(found->packed.begin(), found->packed.end()),
                   Tensors(found->dense.begin(), found->dense.end())};
}

void write_cache(const std::filesystem::path& path, const std::string& key, const Tensors& packed,
                 const Tensors& dense) {
  write_cached_tensors(path, key, {{packed.begin(), packed.end()}, {dense.begin(), dense.end()}});
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
  m.def(
      "packed_cache_key",
      [](const std::filesystem::path& file, const std::string& layout,
         const std::string& precision) { return cache_key(file, packing_of(layout, precision)); },
      py::arg("file"), py::arg("layout"), py::arg("precision"),
      "What decides the packed bytes of a file.");
  m.def("read_packed_cache", &read_cache, py::arg("path"), py::arg("key"),
        "(packed, dense) by name, mapped; None where there is no such cache.");
  m.def("write_packed_cache", &write_cache, py::arg("path"), py::arg("key"), py::arg("packed"),
        py::arg("dense"), "Whole or not at all.");
  m.def("packed_facts", &packed_facts, py::arg("packed"),
        "(layout, precision, rows, cols, nnz) of packed bytes, every index checked.");
}

}  // namespace pomona::bindings
