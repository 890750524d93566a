#include "pomona/dead_plan.h"

#include "bindings.h"

#include <torch/csrc/utils/pybind.h>

#include <pybind11/functional.h>
#include <pybind11/stl.h>

namespace py = pybind11;

namespace pomona::bindings {
namespace {

using MaybeTensor = std::optional<at::Tensor>;
using Run = std::function<at::Tensor(const at::Tensor&)>;
// (running mean, running variance, weight, bias, eps, is training)
using NormRow = std::tuple<MaybeTensor, MaybeTensor, MaybeTensor, MaybeTensor, double, bool>;
// (kind, name, run, shape, is random, norm)
using OperationRow =
    std::tuple<std::string, std::string, Run, std::vector<int64_t>, bool, std::optional<NormRow>>;
// (name, weight, bias, is transposed, pads with zeros, why, consumer, spread, operations)
using LayerRow = std::tuple<std::string, at::Tensor, MaybeTensor, bool, bool, std::string,
                            std::string, int64_t, std::vector<OperationRow>>;

DeadOperation::Kind kind_of(const std::string& kind) {
  using Kind = DeadOperation::Kind;
  if (kind == "pool") return Kind::kPool;
  if (kind == "norm") return Kind::kNorm;
  if (kind == "dropout") return Kind::kDropout;
  return kind == "flat" ? Kind::kFlat : Kind::kElement;
}

DeadOperation to_operation(const OperationRow& row) {
  const auto& [kind, name, run, shape, is_random, norm] = row;
  DeadOperation operation{kind_of(kind), name, run, shape, is_random};
  if (norm) {
    const auto& [mean, variance, weight, bias, eps, is_training] = *norm;
    operation.running_mean = mean.value_or(at::Tensor());
    operation.running_var = variance.value_or(at::Tensor());
    operation.weight = weight.value_or(at::Tensor());
    operation.bias = bias.value_or(at::Tensor());
    operation.eps = eps;
    operation.is_training = is_training;
  }
  return operation;
}

DeadLayer to_layer(const LayerRow& row) {
  const auto& [name, weight, bias, is_transposed, pads, why, consumer, spread, operations] = row;
  DeadLayer layer{name,   weight, bias.value_or(at::Tensor()), is_transposed, pads, why, consumer,
                  spread, {}};
  for (const auto& operation : operations) layer.operations.push_back(to_operation(operation));
  return layer;
}

}  // namespace

void bind_dead(py::module_& m) {
  py::class_<DeadPlan>(m, "DeadPlan")
      .def(py::init([](const std::vector<LayerRow>& rows,
                       const std::map<std::string, at::Tensor>& held) {
             std::vector<DeadLayer> layers;
             for (const auto& row : rows) layers.push_back(to_layer(row));
             return DeadPlan(std::move(layers), held);
           }),
           py::arg("layers"), py::arg("held"))
      .def("alive", &DeadPlan::alive)
      .def("biases",
           [](const DeadPlan& self) {
             std::vector<MaybeTensor> biases;
             for (const auto& bias : self.biases()) {
               biases.push_back(bias.defined() ? MaybeTensor(bias) : std::nullopt);
             }
             return biases;
           })
      .def("inputs", &DeadPlan::inputs)
      .def("rows", [](const DeadPlan& self) {
        std::vector<std::tuple<std::string, int64_t, int64_t, int64_t, std::string>> rows;
        for (const auto& row : self.rows()) {
          rows.emplace_back(row.layer, row.neurons, row.removed, row.stayed, row.why);
        }
        return rows;
      });
}

}  // namespace pomona::bindings
