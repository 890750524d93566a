#include "pomona/dsd.h"

#include "bindings.h"
#include "prune_types.h"

#include <torch/csrc/utils/pybind.h>

#include <pybind11/functional.h>
#include <pybind11/stl.h>

namespace py = pybind11;

namespace pomona::bindings {
namespace {

using WithoutGil = py::call_guard<py::gil_scoped_release>;

// (position, units trained, units trained in the phase, is started, state of the Pruner).
using DSDState = std::tuple<int64_t, int64_t, int64_t, bool, PrunerState>;

// (phase, lr factor), or None where nothing has switched.
using Switch = std::optional<std::pair<std::string, double>>;

Switch to_switch(const std::optional<Transition>& transition) {
  if (!transition) return std::nullopt;
  return std::pair(std::string(phase_name(transition->to)), transition->lr_factor);
}

DSDState state_of(const DSD& dsd) {
  const DSD::Snapshot snapshot = dsd.state();
  return {snapshot.position, snapshot.steps, snapshot.steps_in_phase, snapshot.is_started,
          to_state(snapshot.pruner)};
}

void load_state(DSD& dsd, const DSDState& state) {
  const auto& [position, steps, steps_in_phase, is_started, pruner] = state;
  dsd.load_state({position, steps, steps_in_phase, is_started, to_snapshot(pruner)});
}

}  // namespace

void bind_dsd(py::module_& m) {
  py::class_<DSD>(m, "DSD")
      .def(py::init([](const PruneRows& rows, const std::vector<int64_t>& lengths,
                       const std::vector<double>& lr_factors, bool masks,
                       const std::vector<std::vector<RuleRow>>& cycles, const RanksRow& ranks) {
             DSD::Options options{lengths, lr_factors, masks, {}};
             for (const auto& cycle : cycles) {
               auto& rules = options.cycles.emplace_back();
               for (const auto& rule : cycle) rules.push_back(to_rule(rule));
             }
             return DSD(to_ruled(rows), std::move(options), to_ranks(ranks));
           }),
           py::arg("rows"), py::arg("lengths"), py::arg("lr_factors"), py::arg("masks"),
           py::arg("cycles") = std::vector<std::vector<RuleRow>>(), py::arg("ranks") = py::none())
      .def("names", [](const DSD& self) { return self.pruner().names(); })
      .def(
          "pruner", [](DSD& self) -> Pruner& { return self.pruner(); },
          py::return_value_policy::reference_internal)
      .def(
          "start", [](DSD& self, const Rows& live) { return to_switch(self.start(to_live(live))); },
          WithoutGil())
      .def(
          "step", [](DSD& self, const Rows& live) { return to_switch(self.step(to_live(live))); },
          WithoutGil())
      .def(
          "advance",
          [](DSD& self, const Rows& live) { return to_switch(self.advance(to_live(live))); },
          WithoutGil())
      .def("phase", [](const DSD& self) { return std::string(phase_name(self.phase())); })
      .def("position", &DSD::position)
      .def("lr_factor", &DSD::lr_factor)
      .def("steps", &DSD::steps)
      .def("steps_in_phase", &DSD::steps_in_phase)
      .def("remaining", &DSD::remaining)
      .def("state", &state_of, WithoutGil())
      .def("load_state", &load_state, WithoutGil());
}

}  // namespace pomona::bindings
