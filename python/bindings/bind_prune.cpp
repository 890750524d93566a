#include "pomona/dropout.h"
#include "pomona/error.h"
#include "pomona/prune.h"
#include "pomona/selection.h"

#include "bindings.h"
#include "prune_types.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/utils/pybind.h>

#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <cstring>
#include <initializer_list>
#include <map>
#include <optional>
#include <tuple>

namespace py = pybind11;

namespace pomona::bindings {
namespace {

using WithoutGil = py::call_guard<py::gil_scoped_release>;

const char* moment_name(const std::string& state_name) {
  const Moment moment = moment_of(state_name);
  return moment == Moment::kFirst ? "first" : moment == Moment::kSecond ? "second" : "other";
}

DType dtype_of(const at::Tensor& scores) {
  switch (scores.scalar_type()) {
    case at::kFloat:
      return DType::kFloat32;
    case at::kDouble:
      return DType::kFloat64;
    case at::kHalf:
      return DType::kFloat16;
    case at::kBFloat16:
      return DType::kBFloat16;
    default:
      throw InvalidArgument(std::string("select_smallest: expected `scores` to be float16, "
                                        "bfloat16, float32 or float64, got ") +
                            c10::toString(scores.scalar_type()) + ".");
  }
}

// Scores [n], CPU, contiguous -> the words of the mask as bytes, low bits first.
at::Tensor select_smallest_words(const at::Tensor& scores, double sparsity) {
  const Scores view{scores.const_data_ptr(), scores.numel(), dtype_of(scores)};
  const Selection selection = select_pool({&view, 1}, sparsity, {Mask(view.size)});
  const auto words = std::as_bytes(selection.masks[0].words());
  at::Tensor bytes = at::empty({static_cast<int64_t>(words.size())}, at::kByte);
  std::memcpy(bytes.mutable_data_ptr(), words.data(), words.size());
  return bytes;
}

// The place of `name` among `names`: the enumerator of a kind.
template <class Kind>
Kind kind_of(const char* what, const std::string& name, std::initializer_list<const char*> names) {
  int place = 0;
  for (const char* known : names) {
    if (name == known) return static_cast<Kind>(place);
    ++place;
  }
  throw InvalidArgument(std::string("Prune: expected a known ") + what + ", got `" + name + "`.");
}

void bind_report(py::module_& m) {
  py::class_<PruneReport>(m, "PruneReport")
      .def_readonly("name", &PruneReport::name)
      .def_readonly("size", &PruneReport::size)
      .def_readonly("kept", &PruneReport::kept)
      .def_readonly("threshold", &PruneReport::threshold)
      .def_readonly("bytes", &PruneReport::bytes)
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

// (D_o, D_r, {layer: C_o}): what a dropout module remembers.
using DropoutMemory = std::tuple<double, double, std::map<std::string, int64_t>>;
// (name, C_r, C_o)
using ConnectionRows = std::vector<std::tuple<std::string, int64_t, int64_t>>;

DropoutMemory adjusted_dropout(const std::string& name, double rate, const ConnectionRows& rows,
                               const std::optional<DropoutMemory>& memory) {
  std::vector<Connections> layers;
  for (const auto& [layer, left, total] : rows) layers.push_back({layer, left, total});
  AdjustedDropout earlier{name};
  if (memory) {
    std::map<std::string, int64_t> totals;
    std::tie(earlier.original, earlier.adjusted, totals) = *memory;
    for (const auto& [layer, total] : totals) earlier.layers.push_back({layer, 0, total});
  }
  const auto dropout = adjust_dropout(name, rate, layers, memory ? &earlier : nullptr);
  std::map<std::string, int64_t> totals;
  for (const auto& layer : dropout.layers) totals[layer.layer] = layer.total;
  return {dropout.original, dropout.adjusted, totals};
}

}  // namespace

Prune to_rule(const RuleRow& row) {
  const auto& [sparsity, criterion, granularity, schedule, is_global, may_empty] = row;
  Prune rule;
  rule.sparsity = sparsity;
  const auto& [score, quality, growth, decay, from_optimizer, seed] = criterion;
  rule.criterion = {
      kind_of<Criterion::Kind>("criterion", score,
                               {"magnitude", "std", "taylor", "obd", "random", "scores"}),
      quality,
      growth,
      decay,
      from_optimizer,
      seed};
  const auto& [piece, rows, columns] = granularity;
  rule.granularity = {
      kind_of<Granularity::Kind>("granularity", piece,
                                 {"element", "row", "column", "block", "n:m", "balanced"}),
      rows, columns};
  const auto& [when, begin, every, length, sparsities, initial, margin] = schedule;
  rule.schedule = {kind_of<Schedule::Kind>(
                       "schedule", when, {"one_shot", "iterative", "cubic", "growing", "surgery"}),
                   begin,
                   every,
                   length,
                   sparsities,
                   initial,
                   margin};
  rule.scope = is_global ? Scope::kGlobal : Scope::kLayer;
  rule.may_empty = may_empty;
  return rule;
}

std::vector<Ruled<Prune>> to_ruled(const PruneRows& rows) {
  std::vector<Ruled<Prune>> parameters;
  for (const auto& [name, shape, rule] : rows) {
    Parameter parameter{name, shape, true};
    parameters.push_back({std::move(parameter), to_rule(rule)});
  }
  return parameters;
}

Ranks to_ranks(const RanksRow& row) {
  if (!row) return {};
  const auto& [rank, size, sum, shards] = *row;
  Ranks ranks{rank, size, sum, {}};
  for (const auto& shard : shards) {
    ranks.shards.push_back(shard ? std::optional(Shard{shard->first, shard->second})
                                 : std::nullopt);
  }
  return ranks;
}

// (index, sparsity, may return, is last), or None where no round falls on the step.
std::optional<std::tuple<int64_t, double, bool, bool>> round_of(const RuleRow& row, int64_t step) {
  const Prune rule = to_rule(row);
  check_rule(rule, "Prune");
  const auto round = round_at(rule, step);
  if (!round) return std::nullopt;
  return std::tuple(round->index, round->sparsity, round->may_return, round->is_last);
}

void bind_prune(py::module_& m) {
  m.def("moment_of", &moment_name);
  m.def("select_smallest", &select_smallest_words, WithoutGil());
  m.def("check_rule", [](const RuleRow& row) { check_rule(to_rule(row), "Prune"); });
  m.def("round_at", &round_of);
  m.def("adjust_dropout", &adjusted_dropout);
  bind_report(m);
  using State = PrunerState;
  py::class_<Pruner>(m, "Pruner")
      .def(py::init([](const PruneRows& rows, const RanksRow& ranks) {
             return Pruner(to_ruled(rows), to_ranks(ranks));
           }),
           py::arg("rows"), py::arg("ranks") = py::none())
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
          "before_step",
          [](Pruner& self, const Rows& live, double grad_scale, const std::vector<size_t>& which) {
            self.before_step(to_live(live), grad_scale, which);
          },
          py::arg("live"), py::arg("grad_scale") = 1.0, py::arg("which") = std::vector<size_t>(),
          WithoutGil())
      .def(
          "accumulate",
          [](Pruner& self, const Rows& live, double grad_scale) {
            self.accumulate(to_live(live), grad_scale);
          },
          py::arg("live"), py::arg("grad_scale") = 1.0, WithoutGil())
      .def("may_return", &Pruner::may_return)
      .def("steps", &Pruner::steps)
      .def(
          "narrow",
          [](Pruner& self, size_t i, int64_t dim, const std::vector<int64_t>& indices) {
            self.narrow(i, dim, indices);
          },
          WithoutGil())
      .def(
          "keep",
          [](Pruner& self, const Rows& live, const std::vector<size_t>& which) {
            self.keep(to_live(live), which);
          },
          py::arg("live"), py::arg("which") = std::vector<size_t>(), WithoutGil())
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
