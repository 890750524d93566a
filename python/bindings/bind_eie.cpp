// EIE, for pomona.eie: layers, runs, energy and area of one machine.
#include "pomona/eie.h"
#include "pomona/error.h"
#include "pomona/io.h"

#include "bindings.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/utils/pybind.h>

#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <tuple>

namespace py = pybind11;

namespace pomona::bindings {
namespace {

using eie::Config;
using ReleaseGil = py::call_guard<py::gil_scoped_release>;
using Digits = std::tuple<int, int, int>;  // of weights, inputs, outputs
using Counts = std::map<std::string, double>;

eie::Format format_of(const Digits& digits) {
  return {std::get<0>(digits), std::get<1>(digits), std::get<2>(digits)};
}

eie::Arithmetic arithmetic_of(const std::string& name) {
  if (name == "fixed8") return eie::Arithmetic::kFixed8;
  if (name == "fixed16") return eie::Arithmetic::kFixed16;
  if (name == "fixed32") return eie::Arithmetic::kFixed32;
  if (name == "float32") return eie::Arithmetic::kFloat32;
  throw InvalidArgument(
      "eie: expected `arithmetic` to be \"fixed8\", \"fixed16\", \"fixed32\" or "
      "\"float32\", got \"" +
      name + "\".");
}

// REQUIRES: float32, contiguous, on the CPU (pomona.eie sees to it).
std::span<const float> floats(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

at::Tensor to_tensor(std::span<const float> values, at::IntArrayRef shape) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  std::ranges::copy(values, tensor.data_ptr<float>());
  return tensor;
}

eie::Layer make_layer(const std::string& name, const at::Tensor& weight,
                      const std::optional<at::Tensor>& bias, const Config& config) {
  return {to_weight(name, weight), bias ? floats(*bias) : std::span<const float>(), config};
}

// [n, cols] -> [n, rows], inputs spread over torch's threads.
at::Tensor outputs_of(const eie::Layer& layer, const Config& config, const at::Tensor& activations,
                      const Digits& digits, bool relu) {
  const eie::Machine machine(config);
  const auto inputs = floats(activations);
  const auto cols = static_cast<size_t>(activations.size(1));
  const auto rows = static_cast<size_t>(layer.rows());
  at::Tensor outputs = at::empty({activations.size(0), layer.rows()}, at::kFloat);
  float* out = outputs.data_ptr<float>();
  at::parallel_for(0, activations.size(0), 1, [&](int64_t begin, int64_t end) {
    const auto first = static_cast<size_t>(begin), count = static_cast<size_t>(end - begin);
    const auto some = inputs.subspan(first * cols, count * cols);
    const auto found = machine.outputs(layer, some, format_of(digits), relu);
    std::ranges::copy(found, out + first * rows);
  });
  return outputs;
}

Counts to_counts(const eie::Energy& energy) {
  return {{"queue", energy.queue_pj},
          {"pointer_read", energy.pointer_read_pj},
          {"matrix_read", energy.matrix_read_pj},
          {"arithmetic", energy.arithmetic_pj},
          {"activation", energy.activation_pj},
          {"lnzd", energy.lnzd_pj}};
}

Counts to_counts(const eie::Area& area) {
  return {{"queue", area.queue_um2},
          {"pointer_read", area.pointer_read_um2},
          {"matrix_read", area.matrix_read_um2},
          {"arithmetic", area.arithmetic_um2},
          {"activation", area.activation_um2},
          {"filler", area.filler_um2},
          {"lnzd", area.lnzd_um2}};
}

std::map<std::string, int64_t> to_counts(const eie::PeStatistics& pe) {
  return {{"entries", pe.entries},
          {"fillers", pe.fillers},
          {"bubble_cycles", pe.bubble_cycles},
          {"starved_cycles", pe.starved_cycles},
          {"bypasses", pe.bypasses},
          {"saturations", pe.saturations},
          {"queue_pushes", pe.queue_pushes},
          {"pointer_reads", pe.pointer_reads},
          {"matrix_reads", pe.matrix_reads},
          {"register_reads", pe.register_reads},
          {"register_writes", pe.register_writes}};
}

void bind_statistics(py::module_& m) {
  using eie::Statistics;
  py::class_<Statistics>(m, "EieStatistics")
      .def(py::init<>())
      .def_readonly("cycles", &Statistics::cycles)
      .def_readonly("broadcasts", &Statistics::broadcasts)
      .def_readonly("stall_cycles", &Statistics::stall_cycles)
      .def_readonly("fetch_cycles", &Statistics::fetch_cycles)
      .def_readonly("activation_sram_reads", &Statistics::activation_sram_reads)
      .def_readonly("skipped_negative", &Statistics::skipped_negative)
      .def_readonly("skipped_nan", &Statistics::skipped_nan)
      .def_readonly("tiles", &Statistics::tiles)
      .def("total", [](const Statistics& self) { return to_counts(self.total()); })
      .def("of_pe", [](const Statistics& self, size_t pe) { return to_counts(self.pes.at(pe)); })
      .def("load_balance", &Statistics::load_balance)
      .def("theoretical_cycles", &Statistics::theoretical_cycles)
      .def("add", [](Statistics& self, const Statistics& other) { self += other; })
      .def("energy_pj", [](const Statistics& self, const Config& config) {
        return to_counts(eie::energy(self, config));
      });
}

void bind_config(py::module_& m) {
  py::class_<Config>(m, "EieConfig")
      .def(py::init([](int64_t pes, int64_t queue_slots, int64_t sram_width_bits,
                       int64_t matrix_bytes, int64_t pointer_bytes, int64_t activation_registers,
                       int64_t activation_sram_bytes, int code_bits, int gap_bits,
                       const std::string& arithmetic, double clock_hz, bool signed_activations) {
             Config config{.pes = pes,
                           .queue_slots = queue_slots,
                           .sram_width_bits = sram_width_bits,
                           .matrix_bytes = matrix_bytes,
                           .pointer_bytes = pointer_bytes,
                           .activation_registers = activation_registers,
                           .activation_sram_bytes = activation_sram_bytes,
                           .code_bits = code_bits,
                           .gap_bits = gap_bits,
                           .arithmetic = arithmetic_of(arithmetic),
                           .clock_hz = clock_hz,
                           .signed_activations = signed_activations};
             eie::check_config(config);
             return config;
           }),
           py::kw_only(), py::arg("pes"), py::arg("queue_slots"), py::arg("sram_width_bits"),
           py::arg("matrix_bytes"), py::arg("pointer_bytes"), py::arg("activation_registers"),
           py::arg("activation_sram_bytes"), py::arg("code_bits"), py::arg("gap_bits"),
           py::arg("arithmetic"), py::arg("clock_hz"), py::arg("signed_activations"))
      .def_readonly("clock_hz", &Config::clock_hz)
      .def("unbounded", &eie::unbounded)
      .def("at_28nm", &eie::at_28nm)
      .def("area_um2", [](const Config& self) { return to_counts(eie::area(self)); });
}

}  // namespace

void bind_eie(py::module_& m) {
  bind_config(m);
  bind_statistics(m);
  py::class_<eie::Layer>(m, "EieLayer")
      .def(py::init(&make_layer), py::arg("name"), py::arg("weight"), py::arg("bias"),
           py::arg("config"))
      .def_property_readonly("rows", &eie::Layer::rows)
      .def_property_readonly("cols", &eie::Layer::cols)
      .def_property_readonly("nonzeros", &eie::Layer::nonzeros)
      .def_property_readonly("fillers", &eie::Layer::fillers)
      .def_property_readonly("tiles", [](const eie::Layer& self) { return self.tiles().size(); })
      .def(
          "choose_format",
          [](const eie::Layer& self, const at::Tensor& activations) {
            const auto format = self.choose_format(floats(activations));
            return Digits{format.weight, format.input, format.output};
          },
          py::arg("activations"))
      .def(
          "run",
          [](const eie::Layer& self, const Config& config, const at::Tensor& activations,
             const Digits& digits, bool relu, int64_t trace_first, int64_t trace_last) {
            const eie::RunOptions options{relu, trace_first, trace_last};
            const auto run =
                eie::Machine(config).run(self, floats(activations), format_of(digits), options);
            return std::tuple(to_tensor(run.outputs, {self.rows()}), run.statistics, run.trace);
          },
          py::arg("config"), py::arg("activations"), py::arg("digits"), py::arg("relu") = false,
          py::arg("trace_first") = 0, py::arg("trace_last") = -1, ReleaseGil())
      .def("outputs", &outputs_of, py::arg("config"), py::arg("activations"), py::arg("digits"),
           py::arg("relu") = false, ReleaseGil());
}

}  // namespace pomona::bindings
