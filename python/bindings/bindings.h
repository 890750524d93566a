#pragma once
// What the bind_<chapter>.cpp files share.

#include "pomona/live.h"
#include "pomona/packing.h"
#include "pomona/rules.h"

#include <pybind11/pybind11.h>

#include <string>
#include <utility>
#include <vector>

namespace pomona::bindings {

void bind_format(pybind11::module_& m);
void bind_prune(pybind11::module_& m);
void bind_dsd(pybind11::module_& m);
void bind_quantize(pybind11::module_& m);
void bind_infer(pybind11::module_& m);
void bind_nn(pybind11::module_& m);
void bind_dead(pybind11::module_& m);
void bind_eie(pybind11::module_& m);

// Python's view of Live: (weight, [(state name, tensor), ...]).
using Rows = std::vector<std::pair<at::Tensor, std::vector<std::pair<std::string, at::Tensor>>>>;

inline std::vector<Live> to_live(const Rows& rows) {
  std::vector<Live> live;
  live.reserve(rows.size());
  for (const auto& [weight, state] : rows) {
    auto& row = live.emplace_back(Live{weight, {}});
    for (const auto& [name, value] : state) row.state.push_back({name, value});
  }
  return live;
}

// An empty layout: whichever is likely fastest.
inline Packing packing_of(const std::string& layout, const std::string& precision) {
  Packing packing{.precision = precision_of(precision)};
  if (!layout.empty()) packing.layout = layout_of(layout);
  return packing;
}

}  // namespace pomona::bindings
