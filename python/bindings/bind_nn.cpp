#include "pomona/scan.h"

#include "bindings.h"

#include <pybind11/stl.h>

namespace py = pybind11;

namespace pomona::bindings {
namespace {

// (layer, setting, kept, size, metric)
using PointRow = std::tuple<std::string, double, int64_t, int64_t, double>;

ScanPoint to_point(const PointRow& row) {
  const auto& [layer, setting, kept, size, metric] = row;
  return {layer, setting, kept, size, metric};
}

ScanKind kind_of(bool are_bits) {
  return are_bits ? ScanKind::kBits : ScanKind::kSparsity;
}

}  // namespace

void bind_nn(py::module_& m) {
  m.def("scan_settings", [](const std::string& what, bool are_bits, std::vector<double> settings) {
    return scan_settings(what.c_str(), kind_of(are_bits), std::move(settings));
  });
  m.def("best_setting", [](bool are_bits, const std::vector<PointRow>& rows, double dense,
                           double tolerance, bool lower_is_better) {
    std::vector<ScanPoint> points;
    for (const auto& row : rows) points.push_back(to_point(row));
    return best_setting(kind_of(are_bits), points, dense, tolerance, lower_is_better);
  });
  m.def("scan_line", [](bool are_bits, const PointRow& row) {
    return scan_line(kind_of(are_bits), to_point(row));
  });
  m.def("scan_columns", [](bool are_bits, const std::string& metric) {
    return scan_columns(kind_of(are_bits), metric);
  });
}

}  // namespace pomona::bindings
