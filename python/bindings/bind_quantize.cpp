#include "pomona/codebook.h"
#include "pomona/error.h"
#include "pomona/packed_bits.h"
#include "pomona/quantize.h"

#include "bindings.h"

#include <ATen/ops/tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <pybind11/stl.h>

#include <span>
#include <tuple>

namespace pomona::bindings {
namespace {

namespace py = pybind11;
using WithoutGil = py::call_guard<py::gil_scoped_release>;

// REQUIRES: contiguous, on the CPU, of that dtype: python/pomona passes nothing else.
template <class Element>
std::span<const Element> span_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<Element>(), static_cast<size_t>(tensor.numel())};
}

template <class Element>
at::Tensor to_tensor(const std::vector<Element>& values) {
  return at::tensor(values, c10::CppTypeToScalarType<Element>::value);
}

// Python's view of Snapshot: (is_shared, is_sum, [(name, codes, k, has_zero, squared_error)]).
using EntryRow = std::tuple<std::string, at::Tensor, int64_t, bool, double>;
using SnapshotRows = std::tuple<bool, bool, std::vector<EntryRow>>;

SnapshotRows to_rows(const Sharer::Snapshot& snapshot) {
  std::vector<EntryRow> rows;
  for (const auto& entry : snapshot.parameters) {
    rows.emplace_back(entry.name, entry.codes, entry.k, entry.has_zero, entry.squared_error);
  }
  return {snapshot.is_shared, snapshot.reduction == Reduction::kSum, rows};
}

Sharer::Snapshot to_snapshot(const SnapshotRows& rows) {
  const auto& [is_shared, is_sum, entries] = rows;
  Sharer::Snapshot snapshot{is_shared, is_sum ? Reduction::kSum : Reduction::kMean, {}};
  for (const auto& [name, codes, k, has_zero, squared_error] : entries) {
    snapshot.parameters.push_back({name, codes, k, has_zero, squared_error});
  }
  return snapshot;
}

Sharer make_sharer(const std::vector<std::tuple<std::string, std::vector<int64_t>, int>>& rows,
                   bool is_sum) {
  std::vector<Ruled<Share>> parameters;
  for (const auto& [name, shape, bits] : rows) parameters.push_back({{name, shape}, {bits}});
  return Sharer(std::move(parameters), is_sum ? Reduction::kSum : Reduction::kMean);
}

std::vector<std::tuple<std::string, int64_t, int64_t, int64_t, double>> report(
    const Sharer& sharer) {
  std::vector<std::tuple<std::string, int64_t, int64_t, int64_t, double>> lines;
  for (const auto& line : sharer.report()) {
    lines.emplace_back(line.name, line.size, line.kept, line.centroids, line.squared_error);
  }
  return lines;
}

void bind_sharer(py::module_& m) {
  py::class_<Sharer>(m, "Sharer")
      .def(py::init(&make_sharer))
      .def("names", &Sharer::names)
      .def("is_shared", &Sharer::is_shared)
      .def(
          "assign", [](Sharer& s, const Rows& rows) { return s.assign(to_live(rows)); },
          WithoutGil())
      .def(
          "check", [](const Sharer& s, const Rows& rows) { s.check(to_live(rows)); }, WithoutGil())
      .def("pool", py::overload_cast<size_t, const at::Tensor&>(&Sharer::pool), WithoutGil())
      .def("keep", py::overload_cast<size_t, const at::Tensor&>(&Sharer::keep), WithoutGil())
      .def("expect_gradient", &Sharer::expect_gradient)
      .def("report", &report)
      .def("codes", &Sharer::codes)
      .def("has_zero", &Sharer::has_zero)
      .def("codebook", &Sharer::codebook)
      .def("release", &Sharer::release)
      .def("state", [](const Sharer& s) { return to_rows(s.state()); })
      .def("load_state",
           [](Sharer& s, const SnapshotRows& rows) { s.load_state(to_snapshot(rows)); });
}

}  // namespace

void bind_quantize(py::module_& m) {
  m.def(
      "fit_codebook",
      [](const at::Tensor& values, int k) {
        return to_tensor(fit_codebook(span_of<float>(values), k));
      },
      WithoutGil());
  m.def("storage_bits", &storage_bits);
  m.def("pack_bits", [](const at::Tensor& codes, int bits) {
    return to_tensor(pack_bits(span_of<uint8_t>(codes), bits));
  });
  m.def("unpack_bits", [](const at::Tensor& packed, int64_t count, int bits) {
    return to_tensor(unpack_bits(span_of<uint8_t>(packed), count, bits));
  });
  bind_sharer(m);
}

}  // namespace pomona::bindings
