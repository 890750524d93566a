#include "pomona/error.h"
#include "pomona/mask.h"

#include "bindings.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/utils/pybind.h>

#include <cstring>

namespace py = pybind11;

namespace pomona::bindings {
namespace {

Mask mask_from_tensor(const at::Tensor& keep) {
  if (keep.scalar_type() != at::kBool) {
    throw py::type_error(
        std::string("Mask.from_tensor: expected `keep` to be a bool tensor, got ") +
        c10::toString(keep.scalar_type()) + ".");
  }
  const at::Tensor dense = keep.cpu().contiguous();
  const bool* bits = dense.const_data_ptr<bool>();
  Mask mask(dense.numel(), false);
  for (int64_t i = 0; i < dense.numel(); ++i) {
    if (bits[i]) mask.set(i, true);
  }
  return mask;
}

at::Tensor mask_to_tensor(const Mask& mask) {
  at::Tensor keep = at::empty({mask.size()}, at::kBool);
  bool* bits = keep.mutable_data_ptr<bool>();
  for (int64_t i = 0; i < mask.size(); ++i) bits[i] = mask[i];
  return keep;
}

at::Tensor words_tensor(const Mask& mask) {
  const auto words = mask.words();
  at::Tensor tensor = at::empty({static_cast<int64_t>(words.size())}, at::kUInt64);
  if (!words.empty()) std::memcpy(tensor.mutable_data_ptr(), words.data(), words.size_bytes());
  return tensor;
}

int64_t checked_index(const Mask& mask, int64_t index) {
  const int64_t i = index < 0 ? index + mask.size() : index;
  if (i < 0 || i >= mask.size()) {
    throw py::index_error("Mask: expected an index below " + std::to_string(mask.size()) +
                          ", got " + std::to_string(index) + ".");
  }
  return i;
}

std::string describe(const Mask& mask) {
  return "Mask(size=" + std::to_string(mask.size()) + ", kept=" + std::to_string(mask.kept()) + ")";
}

py::tuple state_of(const Mask& mask) {
  const auto words = mask.words();
  return py::make_tuple(mask.size(),
                        py::bytes(reinterpret_cast<const char*>(words.data()), words.size_bytes()));
}

Mask mask_of(const py::tuple& state) {
  const auto bytes = state[1].cast<std::string>();
  std::vector<uint64_t> words(bytes.size() / sizeof(uint64_t));
  if (!words.empty()) std::memcpy(words.data(), bytes.data(), words.size() * sizeof(uint64_t));
  return Mask(state[0].cast<int64_t>(), std::move(words));
}

void bind_mask(py::module_& m) {
  py::class_<Mask>(m, "Mask", "Which weights of a tensor are kept: one bit a weight, row-major.")
      .def(py::init<int64_t, bool>(), py::arg("size"), py::arg("keep") = true)
      .def_static("from_tensor", &mask_from_tensor, py::arg("keep"))
      .def("to_tensor", &mask_to_tensor, "bool [size]")
      .def("words", &words_tensor, "uint64 [ceil(size / 64)]; bit i of word i / 64")
      .def("hash", &Mask::hash, "The same on every machine.")
      .def_property_readonly("size", &Mask::size)
      .def_property_readonly("kept", &Mask::kept)
      .def_property_readonly("sparsity", &Mask::sparsity)
      .def("__len__", &Mask::size)
      .def("__getitem__", [](const Mask& a, int64_t i) { return a[checked_index(a, i)]; })
      .def("__setitem__", [](Mask& a, int64_t i, bool keep) { a.set(checked_index(a, i), keep); })
      .def("__and__", &Mask::operator&, py::is_operator())
      .def("__or__", &Mask::operator|, py::is_operator())
      .def("__invert__", &Mask::operator~, py::is_operator())
      .def(
          "__eq__", [](const Mask& a, const Mask& b) { return a == b; }, py::is_operator())
      .def("__repr__", &describe)
      .def(py::pickle(&state_of, &mask_of));
}

}  // namespace

void bind_format(py::module_& m) {
  bind_mask(m);
}

}  // namespace pomona::bindings
