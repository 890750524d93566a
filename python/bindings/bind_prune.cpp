#include "pomona/prune.h"
#include "pomona/selection.h"

#include "bindings.h"
#include "prune_types.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/utils/pybind.h>

#include <pybind11/stl.h>

#include <cstring>

namespace py = pybind11;

namespace pomona::bindings {
namespace {

using WithoutGil = py::call_guard<py::gil_scoped_release>;

const char* moment_name(const std::string& state_name) {
  const Moment moment = moment_of(state_name);
  return moment == Moment::kFirst ? "first" : moment == Moment::kSecond ? "second" : "other";
}

// float32 or float64 [n], CPU, contiguous -> the words of the mask as bytes, low bits first.
at::Tensor select_smallest_words(const at::Tensor& scores, double sparsity) {
  const auto n = static_cast<size_t>(scores.numel());
  const Mask mask = scores.scalar_type() == at::kDouble
                        ? select_smallest(std::span(scores.const_data_ptr<double>(), n), sparsity)
                        : select_smallest(std::span(scores.const_data_ptr<float>(), n), sparsity);
  const auto words = std::as_bytes(mask.words());
  at::Tensor bytes = at::empty({static_cast<int64_t>(words.size())}, at::kByte);
  std::memcpy(bytes.mutable_data_ptr(), words.data(), words.size());
  return bytes;
}

void bind_report(py::module_& m) {
  py::class_<PruneReport>(m, "PruneReport")
      .def_readonly("name", &PruneReport::name)
      .def_readonly("size", &PruneReport::size)
      .def_readonly("kept", &PruneReport::kept)
      .def_readonly("threshold", &PruneReport::threshold)
      .def_property_readonly("sparsity",
                             [](const PruneReport& row) {
                               return row.size == 0 ? 0.0
                                                    : static_cast<double>(row.size - row.kept) /
                                                          static_cast<double>(row.size);
                             })
      .def("__repr__", [](const PruneReport& row) {
        return "PruneReport(name='" + row.name + "', size=" + std::to_string(row.size) +
               ", kept=" + std::to_string(row.kept) +
               ", threshold=" + std::to_string(row.threshold) + ")";
      });
}

}  // namespace

std::vector<Ruled<Prune>> to_ruled(const PruneRows& rows) {
  std::vector<Ruled<Prune>> parameters;
  for (const auto& [name, shape, sparsity] : rows) {
    parameters.push_back({{name, shape, true}, {sparsity}});
  }
  return parameters;
}

void bind_prune(py::module_& m) {
  m.def("moment_of", &moment_name);
  m.def("select_smallest", &select_smallest_words, WithoutGil());
  bind_report(m);
  using State = PrunerState;
  py::class_<Pruner>(m, "Pruner")
      .def(py::init([](const PruneRows& rows) { return Pruner(to_ruled(rows)); }))
      .def("names", &Pruner::names)
      .def("is_pruned", &Pruner::is_pruned)
      .def("sparsity", &Pruner::sparsity, WithoutGil())
      .def("report", &Pruner::report, WithoutGil())
      .def(
          "step",
          [](Pruner& self, const Rows& live, const std::vector<at::Tensor>& scores) {
            return self.step(to_live(live), scores);
          },
          py::arg("live"), py::arg("scores") = std::vector<at::Tensor>(), WithoutGil())
      .def("mask_gradient", &Pruner::mask_gradient, WithoutGil())
      .def(
          "mask_gradients",
          [](const Pruner& self, const Rows& live) { self.mask_gradients(to_live(live)); },
          WithoutGil())
      .def(
          "keep", [](const Pruner& self, const Rows& live) { self.keep(to_live(live)); },
          WithoutGil())
      .def("apply_", &Pruner::apply_, WithoutGil())
      .def(
          "check", [](const Pruner& self, const Rows& live) { self.check(to_live(live)); },
          WithoutGil())
      .def(
          "keep_mask",
          [](const Pruner& self, size_t i, const at::Tensor& like) {
            return self.keep_mask(i, like.device());
          },
          WithoutGil())
      .def(
          "state", [](const Pruner& self) { return to_state(self.state()); }, WithoutGil())
      .def(
          "load_state",
          [](Pruner& self, const State& state) { self.load_state(to_snapshot(state)); },
          WithoutGil());
}

}  // namespace pomona::bindings
