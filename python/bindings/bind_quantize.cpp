#include "pomona/codebook.h"
#include "pomona/error.h"
#include "pomona/packed_bits.h"
#include "pomona/quantize.h"

#include "bindings.h"

#include <ATen/Parallel.h>
#include <ATen/ops/tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <pybind11/stl.h>

#include <functional>
#include <optional>
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

// (bits, codes, group, fit, seed, entries, rate), as python/pomona/rules.py makes it.
using ShareRow = std::tuple<int, int, int64_t, int, uint64_t, int, double>;

Share to_share(const ShareRow& row) {
  const auto& [bits, codes, group, fit, seed, entries, rate] = row;
  return {bits, codes, group, static_cast<Fit>(fit), seed, static_cast<EntryType>(entries), rate};
}

// Python's view of Snapshot: (is_shared, is_sum, [(name, codes, k, group, has_zero, error,
// steps)]).
using EntryRow = std::tuple<std::string, at::Tensor, int64_t, int64_t, bool, double, int64_t>;
using SnapshotRows = std::tuple<bool, bool, std::vector<EntryRow>>;

SnapshotRows to_rows(const Sharer::Snapshot& snapshot) {
  std::vector<EntryRow> rows;
  for (const auto& entry : snapshot.parameters) {
    rows.emplace_back(entry.name, entry.codes, entry.k, entry.group, entry.has_zero,
                      entry.squared_error, entry.steps);
  }
  return {snapshot.is_shared, snapshot.reduction == Reduction::kSum, rows};
}

Sharer::Snapshot to_snapshot(const SnapshotRows& rows) {
  const auto& [is_shared, is_sum, entries] = rows;
  Sharer::Snapshot snapshot{is_shared, is_sum ? Reduction::kSum : Reduction::kMean, {}};
  for (const auto& [name, codes, k, group, has_zero, squared_error, steps] : entries) {
    snapshot.parameters.push_back({name, codes, k, group, has_zero, squared_error, steps});
  }
  return snapshot;
}

Sharer make_sharer(const std::vector<std::tuple<std::string, std::vector<int64_t>, ShareRow>>& rows,
                   bool is_sum, const std::tuple<int64_t, int64_t, int64_t>& alternate) {
  std::vector<Ruled<Share>> parameters;
  for (const auto& [name, shape, rule] : rows) {
    parameters.push_back({{name, shape}, to_share(rule)});
  }
  const auto [every, free, rounds] = alternate;
  return Sharer(std::move(parameters), is_sum ? Reduction::kSum : Reduction::kMean,
                {every, free, rounds});
}

std::vector<std::tuple<std::string, int64_t, int64_t, int64_t, int64_t, double, double>> report(
    const Sharer& sharer) {
  std::vector<std::tuple<std::string, int64_t, int64_t, int64_t, int64_t, double, double>> lines;
  for (const auto& line : sharer.report()) {
    lines.emplace_back(line.name, line.size, line.kept, line.centroids, line.groups, line.entropy,
                       line.squared_error);
  }
  return lines;
}

// None is an undefined tensor.
std::vector<at::Tensor> to_importance(const std::vector<std::optional<at::Tensor>>& given) {
  std::vector<at::Tensor> importance;
  for (const auto& tensor : given) importance.push_back(tensor.value_or(at::Tensor()));
  return importance;
}

Values values_of(const at::Tensor& tensor) {
  const DType dtype = tensor.scalar_type() == at::kFloat  ? DType::kFloat32
                      : tensor.scalar_type() == at::kHalf ? DType::kFloat16
                                                          : DType::kBFloat16;
  return {tensor.const_data_ptr(), tensor.numel(), dtype};
}

// On all of torch's threads. REQUIRES: float32, float16 or bfloat16.
at::Tensor fit(const at::Tensor& values, int k, int method, uint64_t seed, double rate,
               const std::optional<at::Tensor>& importance) {
  FitOptions options{static_cast<Fit>(method), seed, rate};
  if (importance) options.importance = span_of<float>(*importance);
  options.parallel = [](int64_t count, const std::function<void(int64_t)>& task) {
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) task(i);
    });
  };
  return to_tensor(fit_codebook(values_of(values), k, options).entries);
}

void bind_sharer(py::module_& m) {
  py::class_<Sharer>(m, "Sharer")
      .def(py::init(&make_sharer))
      .def("names", &Sharer::names)
      .def("is_shared", &Sharer::is_shared)
      .def(
          "assign",
          [](Sharer& s, const Rows& rows,
             const std::vector<std::optional<at::Tensor>>& importance) {
            return s.assign(to_live(rows), to_importance(importance));
          },
          WithoutGil())
      .def(
          "reassign",
          [](Sharer& s, const Rows& rows,
             const std::vector<std::optional<at::Tensor>>& importance) {
            s.reassign(to_live(rows), to_importance(importance));
          },
          WithoutGil())
      .def(
          "round", [](Sharer& s, const Rows& rows) { s.round(to_live(rows)); }, WithoutGil())
      .def(
          "check", [](const Sharer& s, const Rows& rows) { s.check(to_live(rows)); }, WithoutGil())
      .def(
          "pool",
          [](Sharer& s, const std::vector<size_t>& which, const std::vector<at::Tensor>& weights) {
            s.pool(which, weights);
          },
          WithoutGil())
      .def(
          "keep",
          [](Sharer& s, const std::vector<size_t>& which, const std::vector<at::Tensor>& weights) {
            s.keep(which, weights);
          },
          WithoutGil())
      .def(
          "reassign_some",
          [](Sharer& s, const std::vector<size_t>& which, const Rows& rows) {
            s.reassign(which, to_live(rows));
          },
          WithoutGil())
      .def("due", &Sharer::due)
      .def("is_loose", &Sharer::is_loose)
      .def("expect_gradient", &Sharer::expect_gradient)
      .def("report", &report)
      .def("codes", &Sharer::codes)
      .def("has_zero", &Sharer::has_zero)
      .def("group", &Sharer::group)
      .def("codebook", &Sharer::codebook)
      .def("release", &Sharer::release)
      .def("state", [](const Sharer& s) { return to_rows(s.state()); })
      .def("load_state",
           [](Sharer& s, const SnapshotRows& rows) { s.load_state(to_snapshot(rows)); });
}

}  // namespace

void bind_quantize(py::module_& m) {
  m.def("fit_codebook", &fit, WithoutGil());
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
