#include "pomona/error.h"
#include "pomona/io.h"
#include "pomona/mask.h"

#include "bindings.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/utils/pybind.h>

#include <pybind11/stl/filesystem.h>

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

void bind_entry(py::module_& m) {
  py::class_<FileEntry>(m, "FileEntry", "Where the bytes of one tensor of a file go.")
      .def_readonly("name", &FileEntry::name)
      .def_property_readonly("dtype",
                             [](const FileEntry& e) { return std::string(dtype_name(e.dtype)); })
      .def_property_readonly("item_size", [](const FileEntry& e) { return item_size(e.dtype); })
      .def_property_readonly("is_floating", [](const FileEntry& e) { return is_floating(e.dtype); })
      .def_readonly("shape", &FileEntry::shape)
      .def_readonly("numel", &FileEntry::numel)
      .def_readonly("kept", &FileEntry::kept)
      .def_readonly("centroids", &FileEntry::centroids)
      .def_readonly("gap_bits", &FileEntry::gap_bits)
      .def_readonly("fillers", &FileEntry::fillers)
      .def_readonly("offset", &FileEntry::offset)
      .def_readonly("codebook_bytes", &FileEntry::codebook_bytes)
      .def_readonly("position_bytes", &FileEntry::position_bytes)
      .def_readonly("code_bytes", &FileEntry::code_bytes)
      .def_readonly("value_bytes", &FileEntry::value_bytes)
      .def_property_readonly("bytes", &FileEntry::bytes);
}

using ReleaseGil = py::call_guard<py::gil_scoped_release>;
using Saved = std::tuple<std::vector<FileEntry>, uint64_t, uint64_t>;

Saved save_tensors(const NamedTensors& tensors, const std::filesystem::path& path, int gap_bits) {
  auto report = save(tensors, path, Coding{.gap_bits = gap_bits});
  return {std::move(report.entries), report.file_bytes, report.dense_bytes};
}

// (entries, size of the file); with `verify` every checksum and every code is checked.
std::pair<std::vector<FileEntry>, uint64_t> list_file(const std::filesystem::path& path,
                                                      bool verify) {
  const FileReader reader(path);
  if (verify) {
    for (const auto& entry : reader.entries()) reader.read(entry.name);
  }
  return {reader.entries(), reader.size()};
}

void bind_io(py::module_& m) {
  m.def("check_finite", &check_finite, py::arg("parameters"), ReleaseGil());
  m.def("save", &save_tensors, py::arg("tensors"), py::arg("path"), py::arg("gap_bits"),
        ReleaseGil(), "(entries, bytes of the file, bytes of the tensors)");
  m.def("load", static_cast<NamedTensors (*)(const std::filesystem::path&)>(&load), py::arg("path"),
        ReleaseGil());
  m.def("copy_", &copy_, py::arg("targets"), py::arg("sources"), ReleaseGil());
  m.def("list_file", &list_file, py::arg("path"), py::arg("verify") = false, ReleaseGil());
}

}  // namespace

void bind_format(py::module_& m) {
  bind_mask(m);
  bind_entry(m);
  bind_io(m);
}

}  // namespace pomona::bindings
